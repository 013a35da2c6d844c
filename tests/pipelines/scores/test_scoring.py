"""Steps that leave a score on every document: the options reach the measure, scores add up."""

import gzip
from collections.abc import Sequence
from pathlib import Path

import pytest

from configs.reading import ConfigError
from pipelines.config.steps import FlaggedWords, Perplexity, Quality
from pipelines.scores.scoring import (
    flagged_words_stage,
    language_stage,
    local_copy,
    perplexity_stage,
    quality_stage,
)
from pipelines.stage import Stage
from shards import schema
from shards.storage import read_table
from shards.stores.options import StorageOptions
from tests.pipelines.by_hand import run_stage, source, write_stage

WEIGHTS = (
    Path(__file__).parent.parent.parent.parent / "filters" / "weights" / "mixwright-quality.ftz"
)
NAN = float("nan")  # of a text without words
READ, STORAGE = source("text/read"), StorageOptions()
TEXTS = ["This is a sentence about a bad word in plain English.", ""]


def scores(tmp_path: Path, *stages: Stage) -> list[dict[str, float]]:
    folder = write_stage(
        tmp_path / "read",
        [
            schema.documents(
                schema.document("web", f"u{i}", [schema.text_part(text)])
                for i, text in enumerate(TEXTS)
            )
        ],
    )
    for i, stage in enumerate(stages):
        folder = run_stage(stage, tmp_path / str(i), [folder]).out
    table = read_table(folder / "documents" / "part-00000.parquet")
    return [dict(row) for row in table["scores"].to_pylist()]


def flagged(files: Sequence[Path]) -> Stage:
    options = FlaggedWords(files=[str(file) for file in files])
    return flagged_words_stage("text/flagged_words", READ, options, STORAGE)


def test_scores_of_several_steps_stand_beside_each_other(tmp_path: Path):
    (tmp_path / "list.txt").write_text("# remarks\nbad word\n\n")
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"plain\n"))
    first, empty = scores(
        tmp_path,
        language_stage("text/language", READ),
        flagged([tmp_path / "list.txt", tmp_path / "more.txt.gz"]),
        quality_stage("text/quality", READ, Quality(), STORAGE),
    )
    assert first["flagged_words"] == pytest.approx(3 / 11)
    assert 0.5 < first["language"] <= 1
    assert 0 < first["quality"] <= 1
    assert empty == {"language": 0.0, "flagged_words": 0.0, "quality": 0.0}


def test_without_a_list_the_short_one_is_taken(tmp_path: Path):
    assert scores(tmp_path, flagged([]))[0] == {"flagged_words": 0.0}


def test_a_list_that_changes_is_another_config(tmp_path: Path):
    words = tmp_path / "list.txt"
    words.write_text("one\n")
    before = flagged([words]).config
    words.write_text("one\ntwo\n")
    assert flagged([words]).config != before


def test_a_classifier_may_be_a_file(tmp_path: Path):
    stage = quality_stage("text/quality", READ, Quality(model=str(WEIGHTS), label="bad"), STORAGE)
    bundled = quality_stage("text/quality", READ, Quality(), STORAGE)
    (bad, _), (good, _) = scores(tmp_path / "a", stage), scores(tmp_path / "b", bundled)
    assert good["quality"] + bad["quality"] == pytest.approx(1, abs=1e-3)
    assert stage.files == (WEIGHTS,)


def test_perplexity_is_that_of_the_models_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """KenLM itself is an extra: here is what it is asked, in `tests/filters` what it answers."""
    for name in ("model.arpa", "tokens.model"):
        (tmp_path / name).touch()

    def perplexities(texts: list[str], model: str, tokens: str | None = None) -> list[float]:
        return [float(len(Path(model).name + Path(tokens or "").name))] * (len(texts) - 1) + [NAN]

    monkeypatch.setattr("pipelines.scores.scoring.perplexities", perplexities)
    model, tokens = str(tmp_path / "model.arpa"), str(tmp_path / "tokens.model")
    alone = perplexity_stage("text/perplexity", READ, Perplexity(model=model), STORAGE)
    both = perplexity_stage(
        "text/perplexity", READ, Perplexity(model=model, tokens=tokens), STORAGE
    )
    assert scores(tmp_path / "a", alone) == [{"perplexity": 10.0}, {}]
    assert scores(tmp_path / "b", both) == [{"perplexity": 22.0}, {}]
    assert [str(file) for file in both.files] == [model, tokens]


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"flagged_words.files: .*nowhere.txt: no such file"):
        flagged([tmp_path / "nowhere.txt"])
    with pytest.raises(ConfigError, match=r"quality.model: nowhere.bin: no such file"):
        quality_stage("text/quality", READ, Quality(model="nowhere.bin"), STORAGE)
    with pytest.raises(ConfigError, match=r"perplexity: nowhere.arpa: no such file"):
        perplexity_stage("text/perplexity", READ, Perplexity(model="nowhere.arpa"), STORAGE)


def test_a_list_that_is_no_text(tmp_path: Path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ConfigError, match=r"flagged_words.files: .*utf-8"):
        flagged([tmp_path / "list.txt"])


def test_models_on_this_machine_are_read_where_they_are(tmp_path: Path):
    assert local_copy(tmp_path / "model.bin") == str(tmp_path / "model.bin")
