import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.reading import ConfigError
from filters.urls import block_lists
from pipelines.config.sources import Block, Pages, ProsePages
from pipelines.reading import extraction
from pipelines.reading.extraction import extract_records, extract_stage
from pipelines.reading.inputs import read_slice, slices
from pipelines.reading.records import Lost, Page, Prose, Record, page_reason
from pipelines.reading.rows import read_jsonl
from pipelines.reading.warc import read_warc
from shards import schema
from shards.stores.options import StorageOptions
from tests.pipelines.archives import BODIES, warc

URL = "http://site.example/news/page.html"
PAGES = Pages(files=["a.warc"], source="crawl")


def page(body: bytes, url: str = URL, **fields: Any) -> Page:
    values = {"status": 200, "content_type": "text/html"} | fields
    return Page(url, 0, body=body, **values)


def extract(
    records: list[Record], reader: Any = "mixwright", lists: Any = extraction.NONE, **options: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The documents and the drops of some records of a.warc."""
    pages = PAGES.model_copy(update=options)
    found = (("a.warc", record) for record in records)
    documents, drops = extract_records(found, pages, reader, lists)
    assert documents.schema == schema.DOCUMENT and drops.schema == schema.DROP
    assert documents.num_rows + drops.num_rows == len(records)
    return documents.to_pylist(), drops.to_pylist()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": 404}, "http_status"),
        ({"content_type": "image/png"}, "not_html"),
        ({"content_type": None}, "not_html"),
        ({"too_large": True}, "page_too_large"),
        ({"body": b" \n"}, "empty_body"),
        ({"body": b"<p>x"}, None),
        ({"body": b"<p>x", "content_type": "application/xhtml+xml"}, None),
    ],
)
def test_page_reasons(fields, reason):
    assert page_reason(page(**({"body": b""} | fields))) == reason


def test_each_record_becomes_a_document_or_a_drop_with_its_reason():
    whole = b"<link rel=license href=/by><p>Text.</p><img src=a.jpg alt=A>"
    records = [
        page(whole),
        page(b"<p>Text."),
        page(b"<img src=a.jpg>"),
        page(b"", status=500),
        page(b"<div>" * 600 + b"x"),
        Lost(None, 77, "bad_record", "broken"),
        Prose(URL, 99, "Prose.", "CC-MAIN-2024-10", "CC0"),
        Prose(None, 99, " \n"),
    ]
    (row,), drops = extract(records, "interleaved")
    parts = [schema.text_part("Text."), schema.image_part("http://site.example/news/a.jpg", "A")]
    assert row["parts"] == parts and row["licence"] == "http://site.example/by"
    assert row["provenance"] == {"file": "a.warc", "position": 0}
    assert [(d["reason"], d["kind"], d["detail"]) for d in drops] == [
        ("no_images", "dropped", None),
        ("no_text", "dropped", None),
        ("http_status", "dropped", "500"),
        ("page_too_complex", "dropped", "512 levels"),
        ("bad_record", "error", "broken (a.warc at 77)"),
        ("no_images", "dropped", None),
        ("no_text", "dropped", None),
    ]
    assert drops[0]["id"] == schema.digest("crawl", URL)
    prose, _ = extract(records)
    assert [d["parts"][0]["text"] for d in prose] == ["Text.", "Text.", "Prose."]
    assert (prose[-1]["snapshot"], prose[-1]["licence"]) == ("CC-MAIN-2024-10", "CC0")


def test_the_recipes_snapshot_is_that_of_records_that_name_none():
    documents, _ = extract([page(b"<p>One."), Prose(URL, 1, "Two.", "2024")], snapshot="2023")
    assert [document["snapshot"] for document in documents] == ["2023", "2024"]


def test_blocked_pages_are_not_parsed(monkeypatch):
    asked = []
    monkeypatch.setattr(extraction, "read_pages", lambda tasks, _: asked.extend(tasks) or [])
    lists = block_lists(domains=["casino.example"], words=["xxx"])
    records = [
        page(b"<p>x", "http://www.casino.example/"),
        Prose("http://a.example/xxx", 1, "x"),
        page(b"", "http://casino.example/", status=404),
    ]
    _, drops = extract(records, lists=lists)
    assert [d["reason"] for d in drops] == [
        "url_blocked_domain",
        "url_banned_word",
        "url_blocked_domain",
    ]
    assert asked == []


def test_a_pathological_page_is_a_drop():
    bomb = b"<div " + b" ".join(b"a%d=1" % number for number in range(300_000)) + b">x"
    documents, drops = extract([page(b"<p>One."), page(bomb), page(b"<p>Two.")], page_seconds=0.2)
    assert [d["parts"][0]["text"] for d in documents] == ["One.", "Two."]
    assert [(d["reason"], d["kind"], d["detail"]) for d in drops] == [
        ("page_timeout", "dropped", "more than 0.2 seconds")
    ]


def test_how_records_are_batched_does_not_show(monkeypatch):
    records = [page(b"<p>Page %d." % number) for number in range(20)]
    whole = extract(records)
    monkeypatch.setattr(extraction, "BATCH_RECORDS", 3)
    assert extract(records) == whole


TAGS = ("<p>", "<table>", "<td>", "<b>", "<img src=a>", "</p>", "&#xD800;", "<pre>", "<svg>")
MARKUP = st.lists(st.sampled_from((*TAGS, "<!--")) | st.text(max_size=5), max_size=30).map(
    lambda pieces: " ".join(pieces).encode()
)


@settings(max_examples=150)
@given(bodies=st.lists((st.binary(max_size=300) | MARKUP), max_size=5), charset=st.text(max_size=8))
@pytest.mark.parametrize("reader", ["interleaved", "mixwright", "resiliparse"])
def test_no_html_raises_and_every_page_is_accounted_for(reader, bodies, charset):
    _, drops = extract([page(body, charset=charset) for body in bodies], reader)
    assert "extract_failed" not in {drop["reason"] for drop in drops}


SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "www"
REAL = next(SAMPLE.glob("de.*/gimp/gimp-tool-colorize.html")).read_bytes()


@settings(max_examples=100)
@given(place=st.integers(0, len(REAL)), junk=st.binary(max_size=30), cut=st.integers(0, 3000))
def test_no_damage_to_a_real_page_raises(place, junk, cut):
    _, drops = extract([page(REAL[:place] + junk + REAL[place + cut :])], "interleaved")
    assert "extract_failed" not in {drop["reason"] for drop in drops}


@settings(max_examples=100)
@given(
    gz=st.booleans(),
    place=st.integers(0, 1500),
    junk=st.binary(max_size=40),
    cut=st.integers(0, 400),
)
def test_no_damage_to_an_archive_raises(gz, place, junk, cut):
    data = warc(BODIES, gz=gz)
    extract(list(read_warc(io.BytesIO(data[:place] + junk + data[place + cut :]))))


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
)
LINES = st.dictionaries(st.sampled_from(("text", "url", "dump", "metadata", "x")), VALUES).map(
    lambda row: json.dumps(row).encode()
)


@settings(max_examples=50)
@given(st.lists(LINES | st.binary(max_size=40), max_size=8))
def test_no_lines_raise(lines):
    data = b"\n".join(lines)
    extract(list(read_jsonl(io.BytesIO(data), PAGES.columns, 10_000)))


def test_the_stage_reads_its_block_lists_and_goes_by_their_contents(tmp_path):
    (tmp_path / "domains.txt.gz").write_bytes(gzip.compress(b"# bad\nsite.example\n"))
    (tmp_path / "a.warc.gz").write_bytes(warc(BODIES))
    block = Block(domains=[str(tmp_path / "domains.txt.gz")])
    pages = ProsePages(files=[str(tmp_path / "a.warc.gz")], block=block)
    stage = extract_stage("text/extract", pages, "mixwright", StorageOptions())
    assert [file.name for file in stage.files] == ["a.warc.gz", "domains.txt.gz"]
    files = extraction._block_files(block, "", StorageOptions())
    (part,) = slices(pages, "", StorageOptions())
    lists = extraction._block_lists(files)
    documents, drops = extract_records(read_slice(part, pages), pages, "mixwright", lists)
    assert documents.num_rows == 0
    assert drops["reason"].to_pylist() == ["url_blocked_domain"] * 3


def test_a_list_that_is_not_there_is_an_error(tmp_path):
    (tmp_path / "a.warc.gz").write_bytes(warc(BODIES))
    pages = Pages(files=[str(tmp_path / "a.warc.gz")], block={"urls": [str(tmp_path / "no.txt")]})
    with pytest.raises(ConfigError, match=r"interleaved.read.block.urls: no file matches"):
        extract_stage("interleaved/extract", pages, "interleaved", StorageOptions())


def test_every_module_that_decides_the_output_is_named():
    # What the parsing process and the readers import of this package.
    named = set(extraction.MODULES)
    for name in sorted(named):
        source = Path(__file__).parents[3].joinpath(*name.split(".")).with_suffix(".py").read_text()
        used = {
            line.split()[1] for line in source.splitlines() if line.startswith("from pipelines.")
        }
        used = {name for name in used if not name.startswith("pipelines.config.")}
        assert used - {"pipelines.stage"} <= named


def test_documents_are_the_same_wherever_they_were_read():
    one, _ = extract([page(b"<p>Text.")])
    table = pa.Table.from_pylist(one, schema=schema.DOCUMENT)
    assert table["id"].to_pylist() == [schema.digest("crawl", URL, "text", "Text.")]


def test_an_extractor_that_is_not_installed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a.warc.gz").write_bytes(warc(BODIES))
    pages = ProsePages(files=[str(tmp_path / "a.warc.gz")], extractor="trafilatura")
    monkeypatch.setattr(extraction, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"text.read.extractor: install .*trafilatura"):
        extract_stage("text/extract", pages, pages.extractor, StorageOptions())
