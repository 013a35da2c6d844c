"""Rows of URL tables become pairs, and what is no pair is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from configs.reading import ConfigError
from pipelines.config.sources import Tables
from pipelines.reading.captions import pairs, read_stage
from pipelines.reading.records import Lost
from shards import ledger
from shards.stores.options import StorageOptions
from tests.pipelines.by_hand import run_stage

TABLES = Tables(files=["urls.parquet"], source="stamps", licence="licence")


def row(url: str | None, text: str | None, **others: Any) -> dict[str, Any]:
    return {"url": url, "text": text, "licence": None, "extra": {}} | others


def test_a_row_becomes_an_image_and_its_text():
    found = row("http://a.example/0.jpg", "A cat.", licence="CC0-1.0", extra={"b": 1, "a": "é"})
    documents, _ = pairs([(100, found)], TABLES, "urls.parquet")
    (first,) = documents.to_pylist()
    assert [part["url"] for part in first["parts"]] == ["http://a.example/0.jpg", None]
    assert [part["text"] for part in first["parts"]] == [None, "A cat."]
    assert (first["source"], first["url"], first["licence"]) == ("stamps", None, "CC0-1.0")
    assert first["provenance"] == {"file": "urls.parquet", "position": 100}
    assert first["extra"] == '{"a": "é", "b": 1}'


def test_a_licence_for_rows_that_name_none():
    tables = TABLES.model_copy(update={"default_licence": "CC-BY-4.0"})
    rows = [(0, row("u", "A", licence="CC0-1.0")), (1, row("u", "B"))]
    assert pairs(rows, tables, "f")[0]["licence"].to_pylist() == ["CC0-1.0", "CC-BY-4.0"]


def test_a_row_without_url_or_caption_is_dropped_with_the_reason():
    rows = [
        (0, row(None, "A dog.")),
        (1, row("u1", None)),
        (2, row("u2", " ")),
        (3, row(None, None)),
    ]
    documents, drops = pairs(rows, TABLES, "urls.parquet")
    assert documents.num_rows == 0
    assert drops.select(["reason", "url", "content"]).to_pylist() == [
        {"reason": "no_url", "url": "", "content": "A dog."},
        {"reason": "no_caption", "url": "u1", "content": ""},
        {"reason": "no_caption", "url": "u2", "content": " "},
        {"reason": "no_url", "url": "", "content": ""},
    ]


def test_what_could_not_be_read_is_an_error_with_its_place():
    _, drops = pairs([(7, Lost(None, 7, "bad_row", "a quote"))], TABLES, "urls.csv")
    (drop,) = drops.to_pylist()
    assert (drop["reason"], drop["kind"]) == ("bad_row", "error")
    assert drop["detail"] == "a quote (urls.csv at 7)"


def test_a_synthetic_caption_is_a_document_of_its_own_that_shares_the_image():
    tables = Tables.model_validate(
        {"files": ["x"], "source": "web", "synthetic": {"text": "recaption", "source": "vecap"}}
    )
    rows = [
        (0, row("u0", "cat.jpg", synthetic="A cat on a mat.")),
        (1, row("u1", "A dog.", synthetic=None)),
        (2, row("u2", None, synthetic="A bird.")),
    ]
    documents, drops = pairs(rows, tables, "f")
    assert [
        (d["source"], d["parts"][0]["url"], d["parts"][1]["text"]) for d in documents.to_pylist()
    ] == [
        ("web", "u0", "cat.jpg"),
        ("vecap", "u0", "A cat on a mat."),
        ("web", "u1", "A dog."),
        ("vecap", "u2", "A bird."),
    ]
    assert drops["reason"].to_pylist() == ["no_caption"]
    assert len(set(documents["id"].to_pylist())) == 4


def test_both_captions_of_an_image_expect_the_hash_of_the_row():
    tables = Tables.model_validate({"files": ["x"], "synthetic": {"text": "recaption"}})
    rows = [
        (0, row("u0", "cat.jpg", synthetic="A cat on a mat.", hash="0" * 64)),
        (1, row("u1", "A dog.", synthetic=None, hash=None)),
    ]
    documents, _ = pairs(rows, tables, "f")
    expected = [
        [part["expected_hash"] for part in parts] for parts in documents["parts"].to_pylist()
    ]
    assert expected == [["0" * 64, None], ["0" * 64, None], [None, None]]


def test_the_read_stage_writes_one_part_a_slice_of_each_source(tmp_path: Path):
    lines = [f"http://a.example/{n}.jpg\tA cat" for n in range(7)]
    (tmp_path / "urls.tsv").write_text("\n".join(["url\tcaption", *lines]) + "\n")
    rows = [{"URL": f"http://b.example/{n}.jpg", "TEXT": "A dog"} for n in range(2)]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    sources = [
        Tables(files=[str(tmp_path / "urls.tsv")], source="cats", rows_per_part=3),
        Tables(files=[str(tmp_path / "more.jsonl")], source="dogs"),
    ]
    stage = read_stage("captions/read", sources, StorageOptions())
    assert stage.parts is not None and stage.parts(()) == 4
    assert [str(file) for file in stage.files] == [
        str(tmp_path / "urls.tsv"),
        str(tmp_path / "more.jsonl"),
    ]
    place = run_stage(stage, tmp_path / "out", [])
    assert ledger.read_counts(place.out).kept == {"document": 9}
    missing = sources[0].model_copy(update={"files": ["/none/*"]})
    with pytest.raises(ConfigError, match=r"corpora.captions.read.files: no file matches"):
        read_stage("captions/read", [missing], StorageOptions())
    with pytest.raises(ConfigError, match=r"corpora.captions.read.1.files: no file matches"):
        read_stage("captions/read", [sources[0], missing], StorageOptions())
