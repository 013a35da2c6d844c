"""benchmarks/text.py and peers.py: the documents, our side of the comparison, the environments."""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _bundled_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIXWRIGHT_DEV_DATA", raising=False)


@pytest.fixture
def text() -> ModuleType:
    return importlib.import_module("text")


@pytest.fixture
def peers() -> ModuleType:
    return importlib.import_module("peers")


def test_the_documents_are_the_same_every_time(text: ModuleType) -> None:
    first = list(text.documents(None, 30))
    assert (len(first), first) == (30, list(text.documents(None, 30)))


def test_given_documents_are_read_from_files_and_folders(text: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name, value in (("b.jsonl", "second"), ("deep/c.jsonl", "third"), ("a.jsonl", "first")):
        (tmp_path / name).write_text(json.dumps({"text": value}) + '\n{"id": 1}\n')
    assert list(text.jsonl_texts(tmp_path)) == ["first", "second", "third"]
    assert list(text.jsonl_texts(tmp_path / "b.jsonl")) == ["second"]


def test_our_side_is_measured_rule_by_rule(text: ModuleType, tmp_path: Path) -> None:
    values = [*text.documents(None, 6), "", "too short"]
    (tmp_path / "read").write_text("".join(json.dumps({"text": v}) + "\n" for v in values))
    (tmp_path / "words").write_text("short\ntoo long")
    text.measure(tmp_path / "read", tmp_path / "words", tmp_path / "result")
    found = json.loads((tmp_path / "result").read_text())
    assert found["dropped"]["gopher_too_few_words"][-2:] == [6, 7]
    assert 6 in found["dropped"]["language"]
    assert 7 in found["dropped"]["flagged_words_too_many"]
    assert set(found["kept"]) < set(range(6))
    assert (found["seconds"] > 0, found["peak_kilobytes"] > 0) == (True, True)


def test_the_report_says_how_often_a_rule_decides_alike(
    text: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    side = {"seconds": 1.0, "peak_kilobytes": 100, "kept": [0, 1]}
    ours = {**side, "dropped": {"a": [2, 3], "b": []}}
    theirs = {**side, "seconds": 12.0, "kept": [0], "dropped": {"a": [3], "b": []}}
    assert text.report(4, ours, theirs) == {
        "documents": 4,
        "filters_cpu_ratio": 12.0,
        "filters_memory_ratio": 1.0,
        "filters_least_agreement": 0.75,
        "filters_kept_agreement": 0.75,
    }
    assert "75.00%" in capsys.readouterr().out


def test_an_environment_is_made_once_and_again_if_it_was_not_finished(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def pip(command: list[Any], **_: Any) -> None:
        ran.append([str(part) for part in command])
        if command[-1] == "missing":
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setenv("MIXWRIGHT_PEERS", str(tmp_path))
    monkeypatch.setattr(peers.subprocess, "run", pip)
    monkeypatch.setattr(peers.venv, "create", lambda folder, with_pip: folder.mkdir(parents=True))
    python = peers.environment("peer", ["peer==1"])
    assert python.is_relative_to(tmp_path) and python != Path(sys.executable)
    assert peers.environment("peer", ["peer==1"]) == python
    assert peers.environment("peer", ["peer==2"]) != python
    assert [command[-1] for command in ran] == ["peer==1", "peer==2"]
    for _ in range(2):
        with pytest.raises(subprocess.CalledProcessError):
            peers.environment("peer", ["missing"])
    assert len(ran) == 4
