"""Tables of image URLs and captions give the same rows whatever they are written in."""

import csv
import gzip
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.reading import ConfigError
from pipelines.config.sources import Tables
from pipelines.reading.records import Lost
from pipelines.reading.tables import column_names, read_slice, slices
from shards.stores.options import StorageOptions

ROWS = [
    {"url": "http://a.example/0.jpg", "caption": "A cat.", "licence": "CC0-1.0"},
    {"url": "http://a.example/1.jpg", "caption": "1999", "licence": None},
    {"url": None, "caption": "A dog.", "licence": None},
    {"url": "http://a.example/3.jpg", "caption": None, "licence": None},
    {"url": "http://a.example/6.jpg", "caption": 'A "great" 世界', "licence": "CC-BY-4.0"},
]
NAMES = list(ROWS[0])


def write(path: Path, rows: list[dict[str, Any]] = ROWS, names: list[str] = NAMES) -> None:
    """A table in the format, and the compression, that the name of the file tells."""
    kind, compress = path.name.split(".", 1)[1], bytes
    if kind.endswith((".gz", ".zst")):
        compress = gzip.compress if kind.endswith("gz") else zstandard.compress
        kind = kind.rpartition(".")[0]
    if kind == "parquet":
        columns = pa.schema([(name, pa.string()) for name in names])
        pq.write_table(pa.Table.from_pylist(rows, columns), path, row_group_size=2)
        return
    if kind == "jsonl":
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif kind == "tsv":
        cells = [names, *([row[name] or "" for name in names] for row in rows)]
        data = "".join("\t".join(line) + "\n" for line in cells)
    else:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
        data = stream.getvalue()
    path.write_bytes(compress(data.encode()))


def read(path: Path, **options: Any) -> list[Any]:
    """The rows of all parts, in their order; of what was lost the reason."""
    tables = Tables.model_validate({"files": [str(path)], **options})
    found = slices(tables, "read", StorageOptions())
    rows = [row for part in found for _, row in read_slice(part)]
    return [row.reason if isinstance(row, Lost) else row for row in rows]


def wanted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"url": r["url"], "text": r["caption"], "licence": r["licence"], "extra": {}} for r in rows
    ]


FORMATS = ["parquet", "csv", "tsv", "jsonl", "csv.gz", "tsv.zst", "jsonl.gz"]


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows_in_parts_of_any_size(
    tmp_path: Path, name: str, size: int
):
    write(tmp_path / f"urls.{name}")
    assert read(tmp_path / f"urls.{name}", licence="licence", rows_per_part=size) == wanted(ROWS)


@pytest.mark.parametrize("name", ["csv", "tsv", "jsonl.zst", "csv.gz"])
def test_a_long_file_is_several_parts(tmp_path: Path, name: str):
    rows = [ROWS[0] | {"caption": f"Cat number {n}."} for n in range(20_000)]
    write(tmp_path / f"urls.{name}", rows)
    tables = Tables(files=[str(tmp_path / f"urls.{name}")], rows_per_part=500)
    parts = slices(tables, "read", StorageOptions())
    assert len(parts) > 2
    found = [[row["text"] for _, row in read_slice(part)] for part in parts]
    assert all(found)
    assert sorted(text for texts in found for text in texts) == sorted(r["caption"] for r in rows)


cell = st.text(st.characters(exclude_characters="\r\0", codec="utf-8"), max_size=6)
entry = st.fixed_dictionaries({name: cell.map(lambda c: c or None) for name in NAMES})


@settings(max_examples=50)
@given(st.lists(entry, max_size=9), st.integers(1, 10))
def test_a_csv_may_hold_quotes_and_line_breaks(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], size: int
):
    path = tmp_path_factory.mktemp("csv") / "urls.csv"
    rows = [row for row in rows if any(row.values())]
    write(path, rows)
    assert read(path, licence="licence", rows_per_part=size) == wanted(rows)


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        # DataComp, COYO-700M, LAION, LAION with hashes, PixMo and img2dataset
        (["uid", "url", "text", "clip_b32_similarity_score", "sha256"], ["url", "text", "sha256"]),
        (["id", "url", "text", "width", "height", "image_phash"], ["url", "text"]),
        (["SAMPLE_ID", "URL", "TEXT", "LICENSE", "similarity", "hash"], ["URL", "TEXT"]),
        (["URL", "TEXT", "WIDTH", "md5"], ["URL", "TEXT", "md5"]),
        (["image_url", "image_sha256", "caption"], ["image_url", "caption", "image_sha256"]),
        (["url", "caption", "key", "status", "sha256"], ["url", "caption", "sha256"]),
    ],
)
def test_the_columns_of_known_sets_are_known(names: list[str], columns: list[str]):
    found = column_names(names, Tables(files=["x"]))
    assert found == dict(zip(["url", "text", "hash"], columns, strict=False))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("A cat on a mat\thttp://a.example/0.jpg", "CC3M"),
        ("https://a.example/0.jpg\tA cat", "CC12M"),
    ],
)
def test_a_tsv_without_a_header(tmp_path: Path, line: str, name: str):
    (tmp_path / "urls.tsv").write_text(f"{line}\n{line}\n")
    rows = read(tmp_path / "urls.tsv")
    assert [(row["url"][-5:], row["text"][:5]) for row in rows] == [("0.jpg", "A cat")] * 2


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["link", "caption"], {}, "no column is known to hold the image's URL: write .* as url"),
        (["url", "title"], {}, "no column is known to hold the caption: write which one does as"),
        (["url", "image_url", "text"], {}, "url and image_url could hold the image's URL"),
        (["url", "text", "caption"], {}, "text and caption could hold the caption: .* as text"),
        (
            ["url", "text", "md5", "SHA256"],
            {},
            "md5 and SHA256 could hold the image's hash: .* hash",
        ),
        (["url", "text"], {"hash": "digest"}, "no column 'digest'; it has url, text"),
        (["url", "text"], {"licence": "rights"}, "no column 'rights'; it has url, text"),
        (["url", "text"], {"extra": ["size"]}, "no column 'size'; it has url, text"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_that_cannot_be_told_are_named_with_the_file(
    tmp_path: Path, kind: str, names: list[str], options: dict[str, Any], message: str
):
    write(tmp_path / f"urls.{kind}", [dict.fromkeys(names, "x")], names)
    with pytest.raises(ConfigError, match=rf"read: .*urls.{kind}: .*{message}"):
        read(tmp_path / f"urls.{kind}", **options)


def test_a_format_that_the_name_does_not_tell_can_be_named(tmp_path: Path):
    write(tmp_path / "a.csv")
    (tmp_path / "a.csv").rename(tmp_path / "urls")
    with pytest.raises(ConfigError, match=r"read: .* write read.format, one of csv, jsonl"):
        read(tmp_path / "urls")
    assert read(tmp_path / "urls", licence="licence", format="csv") == wanted(ROWS)


def test_columns_of_nested_rows_and_what_else_to_carry_along(tmp_path: Path):
    rows = [
        {"meta": {"url": "u", "size": [1, 2]}, "alt": "A", "n": 3, "p": 0.5, "nan": float("nan")},
        {"meta": None, "alt": "B", "n": None, "p": 1.5, "nan": None},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        found = read(tmp_path / name, url="meta.url", extra="all")
        assert [(row["url"], row["text"]) for row in found] == [("u", "A"), (None, "B")]
        assert [row["extra"] for row in found] == [{"n": 3, "p": 0.5}, {"p": 1.5}]
        chosen = read(tmp_path / name, url="meta.url", extra=["n"])
        assert [row["extra"] for row in chosen] == [{"n": 3}, {}]


def test_damage_costs_the_rows_that_it_is_in(tmp_path: Path):
    lines = [
        b"url,caption",
        b"u0,A",
        b'u1,"Gr\xfc\xdfe"',
        b"u2",
        b"",
        b'u3,"' + b"x" * 200_000,
        b"u4,B",
    ]
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines) + b"\n")
    found = [row if isinstance(row, str) else row["url"] for row in read(tmp_path / "a.csv")]
    assert found == ["u0", "not_utf8", "u2", "bad_row", "u4"]
    lines = [
        b"url\tcaption",
        b"u0\tA",
        b"u1\tGr\xfc\xdfe",
        b"u2",
        b"",
        b"u3\t" + b"x" * 300,
        b'u4\t"B',
    ]
    (tmp_path / "a.tsv").write_bytes(b"\r\n".join(lines) + b"\r\n")
    found = read(tmp_path / "a.tsv", max_bytes=200)
    assert [row if isinstance(row, str) else (row["url"], row["text"]) for row in found] == [
        ("u0", "A"),
        "not_utf8",
        ("u2", None),
        "row_too_large",
        ("u4", '"B'),
    ]
    (tmp_path / "a.jsonl").write_bytes(b'{"url": "u", "text": "A"}\n[1]\n{\n')
    assert [r if isinstance(r, str) else r["url"] for r in read(tmp_path / "a.jsonl")] == [
        "u",
        "not_json",
        "not_json",
    ]


def test_a_broken_row_group_costs_its_rows(tmp_path: Path):
    path = tmp_path / "a.parquet"
    table = pa.table({"url": [f"http://a.example/{n}" for n in range(9)], "text": ["A cat"] * 9})
    pq.write_table(table, path, row_group_size=3, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    place = bytes(data).index(b"http://a.example/3")
    data[place - 4 : place] = b"\xff" * 4  # how long the URL is
    path.write_bytes(data)
    found = read(path, rows_per_part=3)
    assert found[3:6] == ["bad_record"] * 3
    assert [row["url"][-1] for row in found[:3] + found[6:]] == list("012678")
    path.write_bytes(b"PAR1 is no table")
    assert read(path) == ["bad_record"]


SHA256, MD5 = hashlib.sha256(b"A cat").hexdigest(), hashlib.md5(b"A cat").hexdigest()


@pytest.mark.parametrize("name", FORMATS)
def test_hashes_in_any_case_and_space_and_what_is_none(tmp_path: Path, name: str):
    values = [SHA256, f" {SHA256.upper()} ", MD5, None, " ", SHA256[:-1], "x" * 64]
    rows = [{"url": f"u{n}", "text": "A cat", "digest": value} for n, value in enumerate(values)]
    write(tmp_path / f"urls.{name}", rows, ["url", "text", "digest"])
    found = read(tmp_path / f"urls.{name}", hash="digest")
    assert [row if isinstance(row, str) else row["hash"] for row in found] == [
        *(SHA256, SHA256, MD5, None, None),
        *["bad_hash"] * 2,
    ]


def test_a_row_whose_hash_is_none_says_which_value_of_which_column(tmp_path: Path):
    rows = [{"url": "u", "text": "A cat", "md5": value} for value in (MD5, MD5 + "0")]
    write(tmp_path / "urls.csv", rows, list(rows[0]))
    (part,) = slices(Tables(files=[str(tmp_path / "urls.csv")]), "read", StorageOptions())
    (_, lost) = [row for _, row in read_slice(part)]
    message = f"column 'md5' holds '{MD5}0', which is no sha256 or md5 in hex digits"
    assert lost == Lost("u", 2, "bad_hash", message)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param([8472, -1, None], id="int64, as LAION's column of the name hash"),
        pytest.param(
            [bytes.fromhex(MD5), b"\xff" * 16, b""], id="bytes that are not written in hex"
        ),
        pytest.param([hashlib.sha1(b"A cat").hexdigest(), None, "?"], id="sha1"),
    ],
)
def test_a_column_without_any_hash_stops_the_run_before_it_starts(
    tmp_path: Path, values: list[Any]
):
    path = tmp_path / "urls.parquet"
    columns = {"url": ["u0", "u1", "u2"], "text": ["A cat"] * 3, "sha256": values}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(
        ConfigError,
        match=r"read.hash: .*urls.parquet: column 'sha256' holds '.*', which is no sha256 or md5"
        r" in hex digits; write which column .*, or read.hash: false to check none",
    ):
        read(path)
    found = read(path, hash=False, extra="all" if isinstance(values[0], int) else [])
    assert [(row["url"], "hash" in row) for row in found] == [(f"u{n}", False) for n in range(3)]
    assert found[0]["extra"] == ({"sha256": 8472} if isinstance(values[0], int) else {})


@pytest.mark.parametrize("name", FORMATS)
def test_a_table_without_rows(tmp_path: Path, name: str):
    write(tmp_path / f"urls.{name}", [])
    assert read(tmp_path / f"urls.{name}") == []
