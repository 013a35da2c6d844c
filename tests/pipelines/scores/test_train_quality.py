"""Training a quality classifier: what is read, what is kept out, and how it is measured."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from zstandard import ZstdCompressor

from configs.reading import ConfigError
from filters.quality import quality
from pipelines.cli import app
from pipelines.scores.train_quality import Trained, _corpus, _split, _texts, train


def write(folder: Path, word: str, count: int = 60) -> Path:
    folder.mkdir()
    for i in range(count):
        (folder / f"{i}.txt").write_text(f"{word} {word}s of\nmany kinds, number {i}, {word}!")
    return folder


def test_a_trained_classifier_tells_the_kinds_apart(tmp_path: Path):
    good, bad = write(tmp_path / "good", "kitten"), write(tmp_path / "bad", "virus")
    out = tmp_path / "model.bin"
    made = train(str(good), str(bad), str(out), dimensions=4, pairs=1000, epochs=50)
    assert made.good + made.held_out_good == made.bad + made.held_out_bad == 60
    assert min(made.held_out_good, made.held_out_bad) > 0
    assert (made.auc, made.precision, made.recall) == (1.0, 1.0, 1.0)
    kitten, virus = quality(["A kitten of this kind", "A virus of this kind"], str(out))
    assert kitten > 0.5 > virus


@pytest.mark.parametrize("name", ["model.bin", "model.ftz"])
def test_the_same_texts_give_the_same_bytes(tmp_path: Path, name: str):
    good, bad = write(tmp_path / "good", "kitten"), write(tmp_path / "bad", "virus")
    models = []
    for run in ("one", "two", "three", "four"):
        (tmp_path / run).mkdir()
        train(str(good), str(bad), str(tmp_path / run / name), dimensions=4, pairs=1000)
        models.append((tmp_path / run / name).read_bytes())
    assert len(set(models)) == 1


def test_texts_are_read_of_every_format(tmp_path: Path):
    lines = "".join(json.dumps({"text": text}) + "\n" for text in ("one\ntwo", "", "three"))
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    frames = [ZstdCompressor().compress(line.encode()) for line in lines.splitlines(keepends=True)]
    (tmp_path / "c.jsonl.zst").write_bytes(b"".join(frames))
    pq.write_table(pa.table({"text": ["one\ntwo", None, "three"]}), tmp_path / "d.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
        assert _texts(tmp_path / name) == ["one two", "three"]
    (tmp_path / "e.txt").write_text("all of\nit is one\n")
    assert _texts(tmp_path)[-1] == "all of it is one"
    assert len(_texts(tmp_path)) == 9


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("no json", r"a.jsonl, line 2: no JSON object with a field .text."),
        ('{"body": "x"}', r"a.jsonl, line 2: no JSON object with a field .text."),
        ("[1]", r"a.jsonl, line 2: no JSON object with a field .text."),
        ('{"text": 1}', r"a.jsonl, line 2: the field .text. is no string"),
    ],
)
def test_a_line_that_is_no_text_is_named(tmp_path: Path, line: str, message: str):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=message):
        _texts(tmp_path / "a.jsonl")


def test_a_damaged_file_is_named(tmp_path: Path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "fine"}\n')[:-4])
    with pytest.raises(ConfigError, match=r"a.jsonl.gz: the file ends inside a compressed member"):
        _texts(tmp_path / "a.jsonl.gz")


def test_too_little_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere: no such file, or a folder without files"):
        train(str(tmp_path / "nowhere"), str(tmp_path), str(tmp_path / "model.bin"))
    few = write(tmp_path / "few", "kitten", 1)
    with pytest.raises(ConfigError, match=r"few: 1 distinct texts are too few"):
        train(str(few), str(few), str(tmp_path / "model.bin"))
    with pytest.raises(ConfigError, match=r"model.pt: a model's file ends in .bin"):
        train(str(few), str(few), "model.pt")


def test_texts_are_kept_out_by_their_hash():
    texts = [f"text {i}" for i in range(1000)]
    seen, unseen = _split(texts, "here")
    assert sorted(seen + unseen) == sorted(texts)
    assert 70 < len(unseen) < 140
    assert _split(texts[::-1] + texts, "here") == (seen, unseen)


def test_both_kinds_are_evenly_among_each_other():
    lines = _corpus([["g"] * 3, ["b"] * 6]).splitlines()
    assert [line.split()[0] for line in lines[:3]].count("__label__good") == 1
    assert lines.count("__label__good g") == 3


def test_the_command_says_how_good_the_classifier_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = Trained(90, 80, 10, 9, 0.98765, 0.9, 0.8)
    monkeypatch.setattr("pipelines.scores.train_quality.train", lambda *places, **options: made)
    result = CliRunner().invoke(app, ["train-quality", "good", "bad", "model.ftz"])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "model.ftz: trained on 90 good and 80 bad texts",
        "  held out   10 good and 9 bad",
        "  AUC        0.988",
        "  at 0.5     precision 0.900, recall 0.800",
    ]


def test_the_command_names_a_mistake(tmp_path: Path):
    result = CliRunner().invoke(app, ["train-quality", str(tmp_path), str(tmp_path), "model.ftz"])
    assert result.exit_code == 2
    assert "no such file, or a folder without files" in result.output
