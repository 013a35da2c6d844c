"""Loading fastText: what is missing is named, what is no model is refused."""

import sys
from hashlib import sha256
from pathlib import Path

import pytest

from filters.classifiers import WEIGHTS, classifier, library


def test_a_model_is_loaded_once():
    assert classifier(WEIGHTS / "lid.176.ftz") is classifier(WEIGHTS / "lid.176.ftz")


@pytest.mark.parametrize("name", sorted(path.name for path in WEIGHTS.glob("*.ftz")))
def test_the_card_names_each_model_by_its_digest(name: str):
    digest = sha256((WEIGHTS / name).read_bytes()).hexdigest()
    card = " ".join((WEIGHTS / "CARD.md").read_text(encoding="utf-8").split())
    assert f"`{name}`, SHA-256 `{digest}`" in card


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mixwright\[pipelines\]"'):
        library()


def test_a_file_that_is_no_model(tmp_path: Path):
    (tmp_path / "x.bin").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"x\.bin has wrong file format"):
        classifier(tmp_path / "x.bin")
