"""fastText's classifier of languages, read by us, beside fastText's own predictor."""

from pathlib import Path

import fasttext as original
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import fasttext
from filters.language import model_file

MODEL = fasttext.load(model_file())
ORIGINAL = original.load_model(str(model_file()))

SAMPLES = ["the", "der", "в", "и", "的", "___", "</b>", "3.5", "été", "日本語", "한국어", "a\xa0b"]
WORDS = st.one_of(
    st.sampled_from(SAMPLES),
    st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=" "), min_size=1),
)


@settings(deadline=None)
@given(st.lists(st.lists(WORDS, min_size=1).map(" ".join), min_size=1, max_size=4))
def test_labels_and_scores_are_fasttexts(texts: list[str]) -> None:
    found = MODEL.predict(texts)
    for row, text in zip(found, texts, strict=True):
        labels, scores = ORIGINAL.predict(text)
        label = labels[0].removeprefix("__label__")
        assert row[MODEL.labels.index(label)] == pytest.approx(scores[0], abs=1e-4)
        assert row.max() == pytest.approx(scores[0], abs=1e-4)


def test_a_text_does_not_depend_on_those_beside_it() -> None:
    texts = ["the cat", "", "der Hund und die Katze", "the cat"]
    together = MODEL.predict(texts)
    assert np.allclose(together, [MODEL.predict([text])[0] for text in texts], atol=1e-12)
    assert (together[0] == together[3]).all()
    assert MODEL.predict([]).shape == (0, len(MODEL.labels))


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"no model" * 10)
    with pytest.raises(ValueError, match="no file of a fastText model"):
        fasttext.load(tmp_path / "model")


def test_other_losses_are_refused(tmp_path: Path) -> None:
    changed = bytearray(model_file().read_bytes())
    changed[8 + 6 * 4] = 3  # the softmax
    (tmp_path / "model").write_bytes(changed)
    with pytest.raises(ValueError, match="hierarchical softmax"):
        fasttext.load(tmp_path / "model")
