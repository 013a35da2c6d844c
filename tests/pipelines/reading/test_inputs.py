import gzip
import json
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.reading import ConfigError
from pipelines.config.sources import Pages
from pipelines.reading import rows
from pipelines.reading.inputs import Slice, read_slice, slices
from pipelines.reading.records import Lost, Page
from shards.stores.options import StorageOptions
from tests.pipelines.archives import BODIES, warc, wet
from tests.shards.buckets import _served, bucket, copy, server  # noqa: F401  fixtures

KEY = "corpora.text.read"
ROWS = [{"text": f"text {number}", "url": f"u{number}"} for number in range(100)]
JSONL = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def parts(*files: Path | str, **options: Any) -> tuple[Pages, list[Slice]]:
    pages = Pages(files=[str(file) for file in files], **options)
    return pages, slices(pages, KEY, StorageOptions())


def contents(*files: Path | str, **options: Any) -> list[list[str]]:
    """Of each part the texts, bodies and reasons of its records."""
    pages, found = parts(*files, **options)
    return [[_content(record) for _, record in read_slice(part, pages)] for part in found]


def _content(record: Any) -> str:
    if isinstance(record, Lost):
        return record.reason
    return record.body.decode() if isinstance(record, Page) else record.text


@pytest.mark.parametrize(
    ("name", "data", "wanted"),
    [
        ("a.warc", warc(BODIES, gz=False), [body.decode() for body in BODIES]),
        ("a.warc.gz", warc(BODIES), [body.decode() for body in BODIES]),
        ("a.warc.zst", zstandard.compress(warc(BODIES, gz=False)), [b.decode() for b in BODIES]),
        ("a.warc.wet.gz", wet(["x", "y"]), ["x", "y"]),
        ("a.jsonl", JSONL, [row["text"] for row in ROWS]),
        ("a.json.gz", gzip.compress(JSONL, mtime=0), [row["text"] for row in ROWS]),
        ("a.jsonl.zst", zstandard.compress(JSONL), [row["text"] for row in ROWS]),
        ("a.HTML", b"<p>x", ["<p>x"]),
        ("a.htm.gz", gzip.compress(b"<p>x", mtime=0), ["<p>x"]),
        ("a.htm.gz", gzip.compress(b"<p>x", mtime=0)[:-9], ["bad_record"]),
        ("a.parquet", b"PAR1 is no Parquet file", ["bad_record"]),
        ("a.jsonl", b"", []),
        ("a.warc.gz", b"", []),
    ],
)
def test_the_suffix_tells_the_format(tmp_path, name, data, wanted):
    (tmp_path / name).write_bytes(data)
    assert contents(tmp_path / name) == [wanted]


def test_the_recipe_may_tell_the_format(tmp_path):
    (tmp_path / "dump").write_bytes(JSONL)
    with pytest.raises(ConfigError, match=r"read: the format of .*dump cannot be told by its name"):
        parts(tmp_path / "dump")
    assert contents(tmp_path / "dump", format="jsonl")[0][:2] == ["text 0", "text 1"]


def test_lines_and_rows_come_in_parts(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    found = contents(tmp_path / "a.jsonl", rows_per_part=30)
    assert 3 <= len(found) <= 5 and list(chain(*found)) == [row["text"] for row in ROWS]
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet", row_group_size=20)
    found = contents(tmp_path / "a.parquet", rows_per_part=30)
    assert [len(texts) for texts in found] == [40, 40, 20]
    assert list(chain(*found)) == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    ("suffix", "compress"), [("gz", gzip.compress), ("zst", zstandard.compress)]
)
def test_a_compressed_file_is_shared_too(tmp_path, monkeypatch, suffix, compress):
    monkeypatch.setattr(rows, "RUN", 4)
    data = JSONL[:-30] + b"broken\n"
    (tmp_path / f"a.jsonl.{suffix}").write_bytes(compress(data))
    found = contents(tmp_path / f"a.jsonl.{suffix}", rows_per_part=3)
    assert len(found) >= 3 and max(map(len, found)) <= 40
    assert sorted(chain(*found)) == sorted(chain(*contents(tmp_path / f"a.jsonl.{suffix}")))
    assert list(chain(*found)).count("not_json") == 1


def test_a_parquet_file_without_the_column_is_named(tmp_path):
    pq.write_table(pa.table({"content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"columns: .*a.parquet has no 'text'; it has content"):
        parts(tmp_path / "a.parquet")
    assert contents(tmp_path / "a.parquet", columns={"text": "content"}) == [["x"]]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    for name in ("index.html", "a/one page.html", "a/two.htm", "a/picture.png"):
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "site"


def test_a_folder_stands_for_its_pages(site):
    pages, found = parts(site, base_url="https://site.example/docs/", rows_per_part=2)
    assert [len(part.files) for part in found] == [2, 1]
    records = [record for part in found for _, record in read_slice(part, pages)]
    assert {record.url: record.body for record in records} == {
        "https://site.example/docs/index.html": b"index.html",
        "https://site.example/docs/a/one%20page.html": b"a/one page.html",
        "https://site.example/docs/a/two.htm": b"a/two.htm",
    }


def test_the_fixed_part_of_a_pattern_is_the_folder(site):
    _, (part,) = parts(f"{site}/**/*.htm", base_url="https://site.example")
    assert part.urls == ("https://site.example/a/two.htm",)
    _, (part,) = parts(site / "a" / "two.htm", base_url="https://site.example")
    assert part.urls == ("https://site.example/two.htm",)


def test_a_page_without_base_is_named_by_its_path(site):
    _, (part,) = parts(site / "index.html")
    assert part.urls == (f"{site}/index.html",)


def test_a_mirror_of_many_hosts(site):
    _, (part,) = parts(site.parent, base_url="https://")
    assert part.urls[-1] == "https://site/index.html"


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="no file of a known format"):
        parts(tmp_path)
    with pytest.raises(ConfigError, match="no file matches"):
        parts(tmp_path / "*.warc.gz")


def test_a_page_that_is_too_large_is_not_read(tmp_path):
    (tmp_path / "a.html").write_text("x" * 100)
    pages, (part,) = parts(tmp_path / "a.html", max_bytes=99)
    ((_, page),) = read_slice(part, pages)
    assert page.too_large and page.body == b""


def test_inputs_in_a_bucket_are_those_of_a_folder(tmp_path, bucket):  # noqa: F811
    zst, table = tmp_path / "in" / "c.jsonl.zst", tmp_path / "in" / "d.parquet"
    zst.parent.mkdir()
    zst.write_bytes(zstandard.compress(JSONL))
    pq.write_table(pa.Table.from_pylist(ROWS), table, row_group_size=20)
    (tmp_path / "in" / "a.warc.gz").write_bytes(warc(BODIES))
    (tmp_path / "in" / "b.jsonl").write_bytes(JSONL)
    (tmp_path / "in" / "e.html").write_bytes(b"<p>x")
    (tmp_path / "in" / "f.parquet").write_bytes(b"none")
    copy(tmp_path / "in", bucket / "in")
    pages = Pages(files=[f"{bucket}/in/"], rows_per_part=30, base_url="http://site.example")
    there = slices(pages, KEY, StorageOptions(s3=bucket.options))
    here = slices(pages.model_copy(update={"files": [f"{tmp_path}/in"]}), KEY, StorageOptions())
    assert [part.urls for part in there] == [part.urls for part in here]

    def read(found: list[Slice]) -> list[list[Any]]:
        return [[record for _, record in read_slice(part, pages)] for part in found]

    assert read(there) == read(here)
