"""Pictures whose embeddings are near: which are found, and which of them are kept."""

import random
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from configs.reading import ConfigError
from pipelines.config.corpora import Captions
from pipelines.config.steps import Dedupe, Semantic
from pipelines.duplicates import semantic
from pipelines.duplicates.dedupe import dedupe_stage
from pipelines.stage import Place
from pipelines.steps import embedded
from shards import ledger, schema
from shards.storage import write_table
from tests.filters.test_semantic import clouds
from tests.pipelines.by_hand import kept, run_stage, source, write_stage

CLOUDS, EACH = 12, 5
POINTS = clouds(CLOUDS, EACH)


def sha256(number: int) -> str:
    return f"{schema.digest(str(number))}{number:032x}"


def pair(number: int) -> dict[str, Any]:
    """A pair of the picture of a number; the higher, the better its score."""
    shown = schema.image_part(f"http://a.example/{number}", sha256=sha256(number))
    parts = [shown | {"score": number / 100}, schema.text_part(f"The picture {number}.")]
    return schema.document("captions", None, parts)


def write_embeddings(folder: Path, part: int, numbers: list[int]) -> None:
    """As a step `clip` writes them: each different picture of a part, by its hash."""
    numbers = sorted(set(numbers), key=sha256)
    values = pa.array(POINTS[numbers].reshape(-1), pa.float16())
    columns = {
        "url": [f"http://a.example/{i}" for i in numbers],
        "sha256": pa.array([sha256(i) for i in numbers], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(values, POINTS.shape[1]),
    }
    write_table(folder / "embeddings" / f"{ledger.part_name(part)}.parquet", pa.table(columns))


def run(folder: Path, options: Dedupe, parts: list[list[int]]) -> Place:
    pairs = [schema.documents(map(pair, part)) for part in parts]
    inputs = [write_stage(folder / "in", pairs)]
    for number, part in enumerate(parts):
        write_embeddings(folder / "clip", number, part)
    stage = dedupe_stage(
        "captions/dedupe", source("captions/in"), options, embedded=source("captions/clip")
    )
    return run_stage(stage, folder / "dedupe", inputs, [folder / "clip"])


BEST = {pair(number)["id"] for number in range(EACH - 1, CLOUDS * EACH, EACH)}


def test_of_each_cloud_the_best_pair_is_kept_in_any_parts(tmp_path: Path):
    options = Dedupe(semantic=Semantic(threshold=0.8, clusters=4, sample=50))
    numbers = list(range(CLOUDS * EACH))
    for name, cuts in (("one", [60]), ("three", [7, 40, 60])):
        parts = [numbers[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
        place = run(tmp_path / name, options, parts)
        assert set(chain(*kept(place))) == BEST
        drops = ledger.read_drops(place.out)
        assert set(drops["reason"].to_pylist()) == {"semantic_duplicate"}
        assert set(drops["detail"].to_pylist()) == BEST
        assert not (place.out / "centres").exists()
        random.Random(1).shuffle(numbers)


def test_a_picture_given_twice_is_one_also_within_a_part(tmp_path: Path):
    place = run(tmp_path, Dedupe(semantic=Semantic(clusters=1, threshold=1)), [[0, 0, 5], [5]])
    assert list(map(len, kept(place))) == [2, 0]


def test_pictures_of_two_scopes_are_not_compared(tmp_path: Path):
    pairs = [pair(number) | {"source": str(number % 2)} for number in range(4)] * 2
    inputs = [write_stage(tmp_path / "in", [schema.documents(pairs)])]
    write_embeddings(tmp_path / "clip", 0, [0, 1, 2, 3])
    options = Dedupe(semantic=Semantic(threshold=0.8, clusters=1), scope="source")
    stage = dedupe_stage("x", source("in"), options, embedded=source("clip"))
    place = run_stage(stage, tmp_path / "dedupe", inputs, [tmp_path / "clip"])
    assert kept(place) == [[pairs[2]["id"], pairs[3]["id"]]]


def test_the_centres_are_the_same_for_any_parts(tmp_path: Path):
    found = []
    numbers = list(range(CLOUDS * EACH))
    for name, cuts in (("one", [60]), ("three", [7, 40, 60])):
        parts = [numbers[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
        for part, mine in enumerate(parts):
            write_embeddings(tmp_path / name, part, mine)
        inputs = write_stage(
            tmp_path / f"{name}-in", [schema.documents(map(pair, p)) for p in parts]
        )
        place = Place(
            "x", tmp_path, tmp_path / f"{name}-x", (inputs,), (tmp_path / name,), len(parts)
        )
        tables = [table for i in range(len(parts)) for _, table in semantic._sample(i, place, 0.5)]
        semantic._keep_centres((0, tables), place, Semantic(clusters=4, sample=40), 60)
        found.append((place.out / semantic.CENTRES).read_bytes())
        random.Random(2).shuffle(numbers)
    assert found[0] == found[1]


def test_a_crowd_is_compared_in_pieces(monkeypatch: pytest.MonkeyPatch):
    """Of pictures in the order of their distance from the middle, those of a piece are compared."""
    values = pa.array(POINTS[: 4 * EACH].reshape(-1), pa.float16())
    embedding = pa.FixedSizeListArray.from_arrays(values, POINTS.shape[1])
    scope = np.zeros(4 * EACH, np.uint64)
    table = pa.table({"node": np.arange(4 * EACH), "scope": scope, "embedding": embedding})
    assert semantic.near(table, 0.8).num_rows == 4 * (EACH - 1)
    monkeypatch.setattr(semantic, "LARGEST", 1)
    assert semantic.near(table, 0.8).num_rows == 0


def test_what_it_needs_is_said():
    read = {"files": ["x.parquet"]}
    dedupe = {"dedupe": {"semantic": {}}}
    with pytest.raises(ValidationError, match="dedupe by semantic needs a step clip before it"):
        Captions.model_validate({"read": read, "steps": ["download", dedupe, "clip"]})
    with pytest.raises(ConfigError, match="keep some, as"):
        dedupe_stage("captions/dedupe", source("captions/in"), Dedupe(semantic=Semantic()))
    with pytest.raises(ValidationError, match="runs in against keep none"):
        Dedupe(semantic=Semantic(), against=["runs/first"])
    with pytest.raises(ValidationError, match="need a sample"):
        Semantic(clusters=10, sample=9)


def test_the_last_embeddings_before_are_compared():
    steps = ["download", {"clip": {"embeddings": True}}, "clip", {"dedupe": {"semantic": {}}}]
    corpus = Captions.model_validate({"read": {"files": ["x.parquet"]}, "steps": steps})
    made = [source(name) for name in ("read", "download", "clip", "clip-2")]
    found = embedded(made, corpus)
    assert found is not None and found.name == "clip"
