import gzip
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.config.sources import Columns
from pipelines.reading.compressed import GZIP, ZSTD
from pipelines.reading.records import Lost, Page, Prose, Record
from pipelines.reading.rows import read_jsonl, read_parquet

LIMIT = 10_000


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(data: bytes, columns: Columns = Columns(), **options: Any) -> list[Record]:  # noqa: B008
    return list(read_jsonl(io.BytesIO(data), columns, LIMIT, **options))


def shown(records: list[Record]) -> list[str]:
    """Texts, and the reasons of what was lost."""
    return [r.reason if isinstance(r, Lost) else r.text for r in records]


def test_datatroves_fields():
    row = {"text": "One.", "id": "<urn:uuid:1>", "metadata": {"url": "http://a.example/"}}
    assert read(jsonl(row)) == [Prose("http://a.example/", 0, "One.")]
    flat = {"text": "One.", "id": "1", "dump": "CC-MAIN-2024-10", "url": "http://a.example/"}
    assert read(jsonl(flat)) == [Prose("http://a.example/", 0, "One.", "CC-MAIN-2024-10")]


def test_dolmas_fields():
    row = {"id": "1", "text": "One.", "source": "books", "added": "2024-01-01", "metadata": {}}
    (record,) = read(jsonl(row), Columns(snapshot="added"))
    assert record == Prose(None, 0, "One.", "2024-01-01")


def test_any_other_fields():
    columns = Columns(text="body.main", url="link", licence="about.licence")
    row = {"body": {"main": "One."}, "link": "http://a.example/", "about": '{"licence": "CC0"}'}
    assert read(jsonl(row), columns) == [Prose("http://a.example/", 0, "One.", None, "CC0")]


def test_a_row_may_hold_a_page():
    (page,) = read(jsonl({"content": "<p>x", "url": "u"}), Columns(html="content"))
    assert page == Page("u", 0, 200, "text/html", body="<p>x")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "x"', "not_json"),
        (b"[1]", "not_json"),
        (b"[" * 9000, "not_json"),
        (b'{"text": "\xff"}', "not_utf8"),
        (b'{"body": "x"}', "bad_text"),
        (b'{"text": 5}', "bad_text"),
        (b'{"text": null}', "bad_text"),
        (b'{"text": "%s"}' % (b"x" * LIMIT), "row_too_large"),
    ],
)
def test_a_line_that_is_no_row_costs_only_itself(line, reason):
    data = jsonl({"text": "before"}) + line + b"\n\n" + jsonl({"text": "after"})
    before, lost, after = read(data)
    assert (before.text, lost.reason, after.text) == ("before", reason, "after")
    assert lost.offset == len(jsonl({"text": "before"}))
    assert lost.kind == ("dropped" if reason == "row_too_large" else "error")
    assert data[after.offset :] == jsonl({"text": "after"})


def test_halves_of_surrogate_pairs_become_replacement_characters():
    (record,) = read(b'{"text": "a\\ud800b \\ud83d\\ude00"}')
    assert record.text == "a\ufffdb \U0001f600"


ROWS = [{"text": f"row {number} " + "x" * (number % 50)} for number in range(400)]
TEXTS = [row["text"] for row in ROWS]


@pytest.mark.parametrize("step", [1, 7, 1000, 10**6])
def test_slices_hold_each_line_once(step):
    data = jsonl(*ROWS)
    found = []
    for start in range(0, len(data), step):
        found += read(data, start=start, stop=start + step)
    assert shown(found) == TEXTS


def members(compress: Any) -> list[bytes]:
    return [compress(jsonl(*ROWS[start : start + 100])) for start in range(0, 400, 100)]


@pytest.mark.parametrize(
    ("codec", "compress"), [(GZIP, gzip.compress), (ZSTD, zstandard.ZstdCompressor().compress)]
)
def test_a_broken_member_costs_its_own_rows(codec, compress):
    first, second, third, fourth = members(compress)
    assert shown(read(first + second, codec=codec)) == TEXTS[:200]
    broken = second[:30] + b"\0" * 60 + second[90:]
    found = shown(read(first + broken + third + fourth, codec=codec))
    assert found[:100] == TEXTS[:100] and found[-200:] == TEXTS[200:]
    assert found.count("bad_record") == 1
    cut = shown(read(first + second[:-20], codec=codec))
    assert cut[:100] == TEXTS[:100] and cut[-1] == "bad_record"


@settings(max_examples=200)
@given(
    codec=st.sampled_from([None, GZIP, ZSTD]),
    junk=st.binary(max_size=40),
    place=st.integers(0, 3000),
    removed=st.integers(0, 500),
)
def test_no_damage_raises(codec, junk, place, removed):
    compress = {None: bytes, GZIP: gzip.compress, ZSTD: zstandard.ZstdCompressor().compress}[codec]
    data = b"".join(members(compress))
    found = shown(read(data[:place] + junk + data[place + removed :], codec=codec))
    first = len(members(compress)[0])
    if place >= first:
        assert found[:100] == TEXTS[:100]
    if codec is None:
        assert found[-50:] == TEXTS[-50:]


@given(st.lists(st.binary(max_size=60) | st.text(max_size=20).map(lambda t: jsonl({"text": t}))))
def test_every_line_is_one_record(lines):
    data = b"\n".join(lines)
    wanted = [line for line in data.split(b"\n") if line.strip()]
    assert len(read(data)) == len(wanted)


def parquet(table: pa.Table, groups: int = 100) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=groups, compression="none", use_dictionary=False)
    return stream.getvalue()


def read_groups(
    data: bytes,
    columns: Columns = Columns(),  # noqa: B008
    *groups: int,
) -> list[Record]:
    file = pq.ParquetFile(pa.BufferReader(data))
    return list(read_parquet(file, groups or range(file.num_row_groups), columns, LIMIT))


def test_row_groups():
    table = pa.table({"text": TEXTS, "url": [f"u{i}" for i in range(400)]})
    found = read_groups(parquet(table), Columns(), 1, 3)
    assert shown(found) == TEXTS[100:200] + TEXTS[300:]
    assert (found[0].url, found[0].offset, found[-1].offset) == ("u100", 100, 399)


@pytest.mark.parametrize(
    "metadata",
    [
        pa.array([{"url": "u", "dump": "d"}]),
        pa.array([b'{"url": "u", "dump": "d"}'.decode()]),
    ],
)
def test_metadata_as_a_struct_and_as_json(metadata):
    found = read_groups(parquet(pa.table({"text": ["x"], "metadata": metadata})))
    assert found == [Prose("u", 0, "x", "d")]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_texts_of_every_type_that_holds_some(kind):
    texts = pa.array(["é", None], pa.string()).cast(kind)
    assert shown(read_groups(parquet(pa.table({"text": texts})))) == ["é", "bad_text"]


def test_pages_in_parquet_keep_their_bytes():
    table = pa.table({"html": [b"<p>\xff"], "url": ["u"]})
    assert read_groups(parquet(table), Columns(html="html"))[0].body == b"<p>\xff"


def test_a_text_that_is_not_utf8_costs_only_itself():
    data = parquet(pa.table({"text": ["before", "MARK", "after"]}))
    data = data.replace(b"MARK", b"M\xff\xffK")
    assert shown(read_groups(data)) == ["before", "not_utf8", "after"]


def test_a_broken_row_group_is_as_many_errors_as_it_has_rows():
    data = bytearray(parquet(pa.table({"text": TEXTS})))
    place = bytes(data).index(b"row 100 ")
    data[place - 4 : place] = b"\xff" * 4  # how long the text is
    found = shown(read_groups(bytes(data)))
    assert found[:100] == TEXTS[:100] and found[200:] == TEXTS[200:]
    assert found[100:200] == ["bad_record"] * 100


@settings(max_examples=200)
@example(place=5, junk=b"\x01")  # a page that says that it holds fewer values
@given(place=st.integers(4, 20_000), junk=st.binary(min_size=1, max_size=20))
def test_damage_in_parquets_pages_keeps_the_number_of_rows(place, junk):
    data = parquet(pa.table({"text": TEXTS}))
    length = int.from_bytes(data[-8:-4], "little")
    place = min(place, len(data) - 8 - length - len(junk))
    damaged = data[:place] + junk + data[place + len(junk) :]
    assert len(read_groups(damaged)) == len(TEXTS)
