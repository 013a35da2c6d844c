import gzip
import io
import re
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.reading.records import Lost, Page, Prose, Record
from pipelines.reading.warc import read_warc
from tests.pipelines.archives import BODIES, warc, wet


def read(data: bytes, **options: int) -> list[Record]:
    return list(read_warc(io.BytesIO(data), **options))


def shown(data: bytes) -> list[bytes | str]:
    """The bodies of pages, and the reasons of what was lost."""
    return [r.body if isinstance(r, Page) else r.reason for r in read(data)]


def recompressed(data: bytes, compress: Callable[[bytes], bytes]) -> bytes:
    """A plain archive with each record in a member of its own."""
    starts = [match.start() for match in re.finditer(rb"(?m)^WARC/1", data)]
    return b"".join(
        compress(data[a:b]) for a, b in zip(starts, [*starts[1:], len(data)], strict=True)
    )


PLAIN = warc(BODIES, gz=False)
PACKED = {
    "plain": PLAIN,
    "gzip": warc(BODIES),
    "zstd": recompressed(PLAIN, zstandard.ZstdCompressor().compress),
    "one gzip member": gzip.compress(PLAIN),
    "one zstd frame": zstandard.ZstdCompressor().compress(PLAIN),
}


@pytest.mark.parametrize("packed", PACKED)
def test_a_warc_gives_its_pages(packed):
    pages = read(PACKED[packed])
    assert [p.url for p in pages] == [f"http://site.example/{n}" for n in range(3)]
    assert [p.body for p in pages] == BODIES
    assert {(p.status, p.content_type, p.charset) for p in pages} == {(200, "text/html", "utf-8")}


@pytest.mark.parametrize("packed", ["plain", "gzip", "zstd"])
def test_a_page_says_where_its_record_starts(packed):
    data = PACKED[packed]
    second = read(data)[1]
    assert read(data[second.offset :])[0].url == second.url


@pytest.mark.parametrize("gz", [True, False])
def test_a_wet_gives_texts(gz):
    first, second = read(wet(["One.\nTwo.", "Drei: ß"], gz=gz))
    assert isinstance(first, Prose) and first.text == "One.\nTwo."
    assert (second.url, second.text) == ("http://site.example/1", "Drei: ß")


def test_content_encoding_is_undone_and_bounded():
    data = warc([gzip.compress(b"x" * 5000)], encoding="gzip")
    assert read(data)[0].body == b"x" * 5000
    (large,) = read(data, max_bytes=4999)
    assert large.too_large and large.body == b""
    (text,) = read(wet(["x" * 5000]), max_bytes=4999)
    assert (text.reason, text.kind) == ("page_too_large", "dropped")


@pytest.mark.parametrize("packed", ["plain", "gzip", "zstd"])
def test_a_damaged_record_costs_only_itself(packed):
    data = bytearray(PACKED[packed])
    start = read(PACKED[packed])[1].offset
    data[start : start + 6] = b"\xff" * 6
    assert sorted(map(str, shown(bytes(data)))) == sorted(
        map(str, [BODIES[0], "bad_record", BODIES[2]])
    )


@pytest.mark.parametrize("packed", ["plain", "gzip", "zstd"])
def test_garbage_between_records_is_counted(packed):
    data = PACKED[packed]
    start = read(data)[1].offset
    dirty = data[:start] + b"no record\r\nat all" * 9 + data[start:]
    assert shown(dirty) == [BODIES[0], "bad_record", *BODIES[1:]]


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_a_broken_member_in_the_middle_is_counted(packed):
    data = PACKED[packed]
    _, second, third = (page.offset for page in read(data))
    cut = data[: second + 60] + data[third:]
    assert shown(cut) == [BODIES[0], "bad_record", BODIES[2]]


def with_length(data: bytes, number: int, change: int) -> bytes:
    """An archive whose record `number` has a wrong Content-Length."""
    places = list(re.finditer(rb"Content-Length: (\d+)", data))
    place = [m for m in places if b"response" in data[m.start() - 300 : m.start()]][number]
    return data[: place.start(1)] + b"%d" % (int(place[1]) + change) + data[place.end(1) :]


@pytest.mark.parametrize("change", [-20, -5, 30, 500, 90_000])
def test_a_wrong_length_is_counted_and_the_next_record_found(change):
    data = with_length(PLAIN, 1, change)
    for compress in (bytes, gzip.compress, zstandard.ZstdCompressor().compress):
        found = shown(recompressed(data, compress) if compress is not bytes else data)
        assert (found[0], found[-1]) == (BODIES[0], BODIES[2])
        assert found.count("bad_record") == 1
        assert all(BODIES[1].startswith(body) for body in found[1:-1] if body != "bad_record")


def test_a_body_that_does_not_decode_costs_only_itself():
    data = warc([b"not gzip", gzip.compress(b"good")], encoding="gzip")
    bad, good = read(data)
    assert isinstance(bad, Lost) and bad.url == "http://site.example/0" and bad.detail
    assert good.body == b"good"


@pytest.mark.parametrize("packed", PACKED)
def test_a_cut_is_counted_wherever_it_is(packed):
    data = PACKED[packed]
    starts = [0, *(record.offset for record in read(data)), len(data)]
    for end in range(8, len(data)):
        since = end - max(start for start in starts if start <= end)
        rest = data[end : min(start for start in starts if start >= end)]
        cut = shown(data[:end])
        lost = cut.count("bad_record")
        # The first bytes of a header, and line ends after a body, are too little to tell.
        if since >= 8 and rest.strip(b"\r\n"):
            assert lost == 1, end
        assert cut[: len(cut) - lost] == BODIES[: len(cut) - lost]


@settings(max_examples=200)
@given(
    packed=st.sampled_from(["plain", "gzip", "zstd"]),
    data=st.binary(max_size=60),
    place=st.integers(0, 1600),
    removed=st.integers(0, 200),
)
def test_no_damage_raises_and_what_stands_before_it_is_read(packed, data, place, removed):
    archive = PACKED[packed]
    damaged = archive[:place] + data + archive[place + removed :]
    found = shown(damaged)
    intact = [r.body for r in read(archive) if r.offset + 500 < place]
    if packed == "plain":
        assert found[: len(intact)] == intact
