"""Tables of image URLs and captions become pairs, and what is no pair is named."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.reading import ConfigError
from pipelines import captions
from pipelines.config import Tables
from shards import schema
from shards.stores.options import StorageOptions

TABLES = Tables(files=["urls.parquet"], source="stamps", licence="licence")
ROWS = [
    {"url": "http://a.example/0.jpg", "caption": "A cat.", "licence": "CC0-1.0"},
    {"url": "http://a.example/1.jpg", "caption": "1999", "licence": None},
    {"url": None, "caption": "A dog.", "licence": None},
    {"url": "http://a.example/3.jpg", "caption": None, "licence": None},
    {"url": "http://a.example/4.jpg", "caption": " ", "licence": None},
    {"url": None, "caption": None, "licence": None},
    {"url": "http://a.example/6.jpg", "caption": 'A "great" 世界', "licence": "CC-BY-4.0"},
]


def table(rows: list[dict[str, Any]] = ROWS) -> pa.Table:
    return pa.Table.from_pylist(rows, pa.schema([(n, pa.string()) for n in ROWS[0]]))


def write_tsv(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = [list(ROWS[0]), *([row[name] or "" for name in ROWS[0]] for row in rows)]
    path.write_bytes("".join("\t".join(line) + "\n" for line in lines).encode())


def test_a_row_becomes_an_image_and_its_text():
    documents, _ = captions.pairs(table(), TABLES, file="urls.parquet", positions=range(100, 107))
    first = documents.to_pylist()[0]
    assert [part["url"] for part in first["parts"]] == ["http://a.example/0.jpg", None]
    assert [part["text"] for part in first["parts"]] == [None, "A cat."]
    assert (first["source"], first["url"], first["licence"]) == ("stamps", None, "CC0-1.0")
    assert first["provenance"] == {"file": "urls.parquet", "position": 100}


def test_a_row_without_url_or_caption_is_dropped_with_the_reason():
    documents, drops = captions.pairs(
        table(), TABLES, file="urls.parquet", positions=range(len(ROWS))
    )
    assert documents["provenance"].to_pylist() == [
        {"file": "urls.parquet", "position": i} for i in (0, 1, 6)
    ]
    assert drops.select(["reason", "url", "content"]).to_pylist() == [
        {"reason": "no_url", "url": "", "content": "A dog."},
        {"reason": "no_caption", "url": "http://a.example/3.jpg", "content": ""},
        {"reason": "no_caption", "url": "http://a.example/4.jpg", "content": " "},
        {"reason": "no_url", "url": "", "content": ""},
    ]


@pytest.mark.parametrize(
    ("changes", "column"), [({"url": "URL"}, "URL"), ({"text": "alt"}, "alt"), ({}, "licence")]
)
def test_a_missing_column_is_named_with_those_that_exist(changes: dict[str, str], column: str):
    given = table().select(["url", "caption"])
    tables = TABLES.model_copy(update={"licence": None, **changes} if changes else {})
    message = f"urls.parquet: no column '{column}'; it has url, caption"
    with pytest.raises(ConfigError, match=message):
        captions.pairs(given, tables, file="urls.parquet", positions=range(len(ROWS)))


def load_all(path: Path, size: int) -> list[dict[str, Any]]:
    """All rows of a file, read slice by slice."""
    slices = captions._slices([path], size)
    return [row for piece in slices for row in captions._load(*piece)[0].to_pylist()]


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_tsv_and_parquet_give_the_same_rows_in_slices_of_any_size(tmp_path: Path, size: int):
    pq.write_table(table(), tmp_path / "urls.parquet", row_group_size=2)
    write_tsv(tmp_path / "urls.tsv", ROWS)
    assert load_all(tmp_path / "urls.parquet", size) == ROWS
    assert load_all(tmp_path / "urls.tsv", size) == ROWS


cell = st.text(st.characters(exclude_characters="\t\n\r", codec="utf-8"), max_size=5)
row = st.fixed_dictionaries({name: cell.map(lambda c: c or None) for name in ROWS[0]})


@settings(deadline=None)
@given(st.lists(row, max_size=9), st.integers(1, 10))
def test_every_row_of_a_tsv_is_read_once(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], size: int
):
    path = tmp_path_factory.mktemp("tsv") / "urls.tsv"
    write_tsv(path, rows)
    assert load_all(path, size) == rows


def test_a_broken_line_of_a_tsv_costs_that_line_only(tmp_path: Path):
    path = tmp_path / "urls.tsv"
    lines = [b"url\tcaption", b"http://a.example/0.jpg", b"", b"http://a.example/2.jpg\tA\tB"]
    path.write_bytes(b"\r\n".join([*lines, b"http://a.example/3.jpg\tGr\xfc\xdfe"]))
    (piece,) = captions._slices([path], 100)
    given, positions = captions._load(*piece)
    assert positions == [13, 37, 39, 67]
    tables = Tables(files=[str(path)])
    documents, drops = captions.pairs(given, tables, file=str(path), positions=positions)
    assert drops["reason"].to_pylist() == ["no_caption", "no_url"]
    assert schema.texts(documents) == ["A", "Gr��e"]


def test_a_table_without_rows_has_no_slices(tmp_path: Path):
    pq.write_table(table([]), tmp_path / "urls.parquet")
    write_tsv(tmp_path / "urls.tsv", [])
    (tmp_path / "nothing.tsv").touch()
    for name in ("urls.parquet", "urls.tsv", "nothing.tsv"):
        assert captions._slices([tmp_path / name], 10) == []


def test_the_read_stage_writes_one_part_a_slice(tmp_path: Path):
    pq.write_table(table(), tmp_path / "urls.parquet")
    write_tsv(tmp_path / "more.tsv", ROWS[:2])
    files = [str(tmp_path / "urls.parquet"), str(tmp_path / "more.tsv")]
    tables = TABLES.model_copy(update={"files": files, "rows_per_part": 3})
    stage = captions.read_stage("captions/read", tables, StorageOptions())
    assert stage.parts(()) == 4
    assert [str(file) for file in stage.files] == files
    with pytest.raises(ConfigError, match=r"corpora.captions.read.files: no file matches"):
        captions.read_stage(
            "captions/read",
            TABLES.model_copy(update={"files": ["/none/*"]}),
            StorageOptions(),
        )
