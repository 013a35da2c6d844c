"""Web archives: HTTP responses of WARC files, and the prose of WET files, however damaged."""

import os
import re
from collections.abc import Generator, Iterator
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from pipelines.reading.compressed import GZIP, SCAN, Damage, decompressed
from pipelines.reading.records import MAX_BYTES, Lost, Page, Prose, Record

PLAIN_START = re.compile(rb"(?:^|(?<=\n))WARC/1\.")
RECORD_START = re.compile(rb"WARC/1\.|\x1f\x8b\x08|\x28\xb5\x2f\xfd")  # plain, gzip, zstd
CONTENT_LENGTH = re.compile(rb"^Content-Length:\s*(\d+)", re.IGNORECASE | re.MULTILINE)
HEAD = 1 << 16  # bytes that hold the headers of a record
INSIDE = b"\r\n\r\nWARC/1."  # of a record whose length is said to be larger than it is
# WET files are of "conversion" records: the text of a page and its address.
READ = WarcRecordType.response | WarcRecordType.conversion


def read_warc(source: BinaryIO, max_bytes: int = MAX_BYTES) -> Iterator[Record]:
    """The HTTP responses and conversions to text of a WARC (plain, gzip or zstd) in file order.

    `source` is a seekable stream. A record that cannot be read becomes a `Lost` with reason
    "bad_record", and reading goes on at the next readable record; where the archive is damaged
    between two records, it stands at the offset of the first of them. A body is at most
    `max_bytes` long, before and after its content encoding is undone.

    Raises OSError if the storage fails.
    """
    start: int | None = 0
    while start is not None:
        start = yield from _read_from(source, start, max_bytes)


def _read_from(stream: BinaryIO, start: int, max_bytes: int) -> Generator[Record, None, int | None]:
    """Records from byte `start` to the end or the first broken one; returns where to resume."""
    offset, url = start, None
    stream.seek(start)
    try:
        for record in _records(stream):
            offset, url = record.stream_pos, _target(record)
            found = _record(record, url, max_bytes)
            if found is not None:
                yield found
            url = None
    except OSError as error:
        if error.errno is not None:  # the storage's own failure, not the archive's
            raise
        yield Lost(url, offset, "bad_record", str(error))
        return _next_record(stream, offset + 1)
    cut = _unfinished(stream, offset)
    if cut is not None:
        yield Lost(None, cut, "bad_record", "the archive ends inside the record")
    return None


def _records(stream: BinaryIO) -> Iterator[WarcRecord]:
    yield from ArchiveIterator(stream, record_types=READ, parse_http=False)


def _target(record: WarcRecord) -> str | None:
    return (record.headers.get("WARC-Target-URI") or "").strip("<>") or None


def _record(record: WarcRecord, url: str | None, max_bytes: int) -> Record | None:
    """What a record holds, None if that is neither a page nor text; OSError if it is damaged."""
    if record.record_type == WarcRecordType.conversion:
        return _prose(record, url, max_bytes)
    return _page(record, url, max_bytes) if record.is_http else None


def _prose(record: WarcRecord, url: str | None, max_bytes: int) -> Record:
    if record.content_length > max_bytes:
        return Lost(url, record.stream_pos, "page_too_large", kind="dropped")
    _read_whole(record)
    text = _alone(record.reader.read()).decode("utf-8", "replace")
    return Prose(url, record.stream_pos, text.removeprefix("\ufeff"))


def _page(record: WarcRecord, url: str | None, max_bytes: int) -> Page:
    if record.content_length > max_bytes:
        record.parse_http()
        return Page(url, record.stream_pos, *_response_head(record), too_large=True)
    _read_whole(record)
    record.parse_http(auto_decode="all")
    body = record.reader.read(max_bytes + 1)
    too_large = len(body) > max_bytes
    head = _response_head(record)
    if head[0] is None:
        raise OSError("record holds no HTTP response")
    return Page(url, record.stream_pos, *head, b"" if too_large else _alone(body), too_large)


def _read_whole(record: WarcRecord) -> None:
    """Reads all of a record; raises OSError if its length is not what it says."""
    declared = record.content_length
    record.freeze()
    if record.content_length < declared:
        raise OSError(f"record ends after {record.content_length} of {declared} bytes")


def _alone(body: bytes) -> bytes:
    """`body`; raises OSError if the next record is a part of it."""
    if INSIDE in body:
        raise OSError("record holds the start of the next one")
    return body


def _response_head(record: WarcRecord) -> tuple[int | None, str | None, str | None]:
    """Status, content type and charset of a response."""
    headers = record.http_headers
    kind = record.http_content_type or record.headers.get("WARC-Identified-Payload-Type")
    charset = (record.http_charset or "").strip("\"' ")
    return headers.status_code if headers else None, kind and kind.lower(), charset or None


def _unfinished(stream: BinaryIO, last: int) -> int | None:
    """The start of a record that the archive ends inside of, which its reader takes for the end.

    `last` is the offset of the last record that was read.
    """
    stream.seek(0)
    magic = stream.read(4)
    if magic.startswith(GZIP.magic):
        start = last if _starts_with(stream, last, GZIP.magic) else 0
        pieces = decompressed(stream, GZIP, start)
        return next((piece.offset for piece in pieces if isinstance(piece, Damage)), None)
    if magic != b"WARC":
        return None
    *_, start = (last, *_places(stream, last, PLAIN_START))
    return None if _is_whole(stream, start) else start


def _is_whole(stream: BinaryIO, start: int) -> bool:
    """Whether the plain record at `start` is as long as it says."""
    stream.seek(start)
    head, end, _ = stream.read(HEAD).partition(b"\r\n\r\n")
    length = CONTENT_LENGTH.search(head)
    whole = start + len(head + end) + (int(length[1]) if length else 0)
    return bool(end) and stream.seek(0, os.SEEK_END) >= whole


def _starts_with(stream: BinaryIO, offset: int, magic: bytes) -> bool:
    stream.seek(offset)
    return stream.read(len(magic)) == magic


def _next_record(stream: BinaryIO, start: int) -> int | None:
    """The offset of the first record at or after `start` that can be read to its end."""
    starts = _places(stream, start, RECORD_START)
    return next((offset for offset in starts if _readable(stream, offset)), None)


def _places(stream: BinaryIO, start: int, pattern: re.Pattern[bytes]) -> Iterator[int]:
    """Offsets at or after `start` where the bytes look like the start of a record."""
    overlap = 8
    while True:
        stream.seek(start)
        chunk = stream.read(SCAN)
        for match in pattern.finditer(chunk):
            if match.start() < SCAN - overlap:
                yield start + match.start()
        if len(chunk) < SCAN:
            return
        start += SCAN - overlap


def _readable(stream: BinaryIO, offset: int) -> bool:
    """Whether the record at `offset` can be read to its end."""
    stream.seek(offset)
    try:
        record = next(iter(ArchiveIterator(stream, parse_http=False)), None)
        if record is not None:
            record.consume()
    except OSError as error:
        if error.errno is not None:
            raise
        return False
    return record is not None
