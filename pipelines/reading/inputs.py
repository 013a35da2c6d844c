"""Files of many formats to records, in parts: WARC, WET, HTML, JSONL and Parquet.

A part is a WARC, a range of the lines of a JSONL file, some row groups of a Parquet file, or some
HTML files. No file is read through to find its parts. A compressed JSONL file can only be read
from its start, and so is by each of its parts, which are therefore larger (`COARSER`).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pyarrow as pa

from configs.reading import ConfigError
from pipelines.config.sources import Pages, expand
from pipelines.reading.compressed import CODECS, Damage, decompressed, plain_suffix, whole
from pipelines.reading.records import Lost, Page, Record
from pipelines.reading.rows import (
    COARSER,
    first_lines,
    raise_storage_failure,
    read_jsonl,
    read_parquet,
)
from pipelines.reading.warc import read_warc
from shards.storage import Location, in_parallel, location, matching, open_parquet, open_stream
from shards.storage import size as file_size
from shards.stores.options import StorageOptions

Format = Literal["warc", "wet", "html", "jsonl", "parquet"]
SUFFIXES: dict[str, Format] = {
    ".warc": "warc",
    ".wet": "wet",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
WILD = frozenset("*?[")


@dataclass(frozen=True)
class Slice:
    """What one part reads: bytes or row groups `start` to `stop` of a file, or whole files."""

    format: Format
    files: tuple[Location, ...]
    urls: tuple[str | None, ...] = (None,)  # of HTML files
    start: int = 0
    stop: int | None = None
    share: tuple[int, int] = (0, 1)  # of a compressed file: which of how many parts this is


def slices(pages: Pages, key: str, storage: StorageOptions) -> list[Slice]:
    """The parts that a recipe's files are read in; `key` is where the recipe names them.

    Raises `ConfigError` for a pattern without a file, a file of unknown format, and a Parquet
    file without the column that is wanted.
    """
    found: list[Slice] = []
    for pattern in pages.files:
        files = _files(pattern, pages, key, storage)
        html = [file for file in files if _format(file, pages, key) == "html"]
        others = [file for file in files if file not in set(html)]
        root = _root(pattern, storage)
        urls = [_url(file, root, pages.base_url) for file in html]
        for start in range(0, len(html), pages.rows_per_part):
            stop = start + pages.rows_per_part
            found.append(Slice("html", tuple(html[start:stop]), tuple(urls[start:stop])))
        cut = partial(_cut, pages=pages, key=key)
        found += [part for parts in in_parallel(cut, others) for part in parts]
    return found


def _files(pattern: str, pages: Pages, key: str, storage: StorageOptions) -> list[Location]:
    """The files of a path, pattern or folder; of a folder those whose suffix tells a format."""
    place = location(pattern, storage)
    if not _is_folder(place, pattern):
        return expand([pattern], f"{key}.files", storage)
    inside = matching(place / "**/*")
    wanted = [f for f in inside if _known(f) and pages.format in (None, _known(f))]
    if not wanted:
        raise ConfigError(f"{key}.files: no file of a known format is in {pattern!r}")
    return wanted


def _known(file: Location) -> Format | None:
    """The format that the name of a file tells."""
    return SUFFIXES.get(plain_suffix(file))


def _format(file: Location, pages: Pages, key: str) -> Format:
    known = pages.format or _known(file)
    if known is None:
        raise ConfigError(
            f"{key}: the format of {file} cannot be told by its name; write {key}.format, "
            "one of warc, wet, html, jsonl, parquet"
        )
    return known


def _root(pattern: str, storage: StorageOptions) -> str:
    """The folder below which the files of a pattern are, ending in a slash."""
    place = location(pattern, storage)
    if _is_folder(place, pattern):
        return f"{place}/"
    text = str(place)
    wild = min((text.find(sign) for sign in WILD if sign in text), default=len(text))
    return text[: text.rfind("/", 0, wild) + 1]


def _is_folder(place: Location, pattern: str) -> bool:
    return place.is_dir() if isinstance(place, Path) else pattern.endswith("/")


def _url(file: Location, root: str, base: str | None) -> str:
    """The address of an HTML file: below a base, or the file's own path."""
    if base is None:
        return str(file)
    return f"{base.removesuffix('/')}/{quote(str(file).removeprefix(root))}"


def _cut(file: Location, pages: Pages, key: str) -> list[Slice]:
    """The parts of a file that is not HTML."""
    known = _format(file, pages, key)
    if known == "parquet":
        return _cut_parquet(file, pages, key)
    return _cut_jsonl(file, pages) if known == "jsonl" else [Slice(known, (file,))]


def _cut_jsonl(file: Location, pages: Pages) -> list[Slice]:
    """Byte ranges of about as many rows; of a compressed file, shares."""
    size, rows = max(file_size(file), 1), pages.rows_per_part
    _, length = first_lines(file, pages.max_bytes)
    if file.suffix in CODECS:
        count = math.ceil(size / (length * rows * COARSER))
        return [Slice("jsonl", (file,), share=(number, count)) for number in range(count)]
    step = math.ceil(rows * length)
    return [Slice("jsonl", (file,), start=a, stop=a + step) for a in range(0, size, step)]


def _cut_parquet(file: Location, pages: Pages, key: str) -> list[Slice]:
    """Row groups together until they have enough rows; all of a file that cannot be opened."""
    try:
        opened = open_parquet(file)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise_storage_failure(error)
        return [Slice("parquet", (file,))]
    wanted = pages.columns.html or pages.columns.text
    names = opened.schema_arrow.names
    if wanted not in names and wanted.partition(".")[0] not in names:
        raise ConfigError(f"{key}.columns: {file} has no {wanted!r}; it has {', '.join(names)}")
    found, start, rows = [], 0, 0
    for group in range(opened.num_row_groups):
        rows += opened.metadata.row_group(group).num_rows
        if rows >= pages.rows_per_part or group == opened.num_row_groups - 1:
            found.append(Slice("parquet", (file,), start=start, stop=group + 1))
            start, rows = group + 1, 0
    return found


def read_slice(part: Slice, pages: Pages) -> Iterator[tuple[str, Record]]:
    """The records of a part, each with the name of the file that it is in.

    Raises OSError if the storage fails; what is broken in a file is a `Lost`.
    """
    for file, url in zip(part.files, part.urls, strict=True):
        for record in _read(file, url, part, pages):
            yield str(file), record


def _read(file: Location, url: str | None, part: Slice, pages: Pages) -> Iterator[Record]:
    if part.format == "parquet":
        yield from _read_parquet(file, part, pages)
        return
    codec = CODECS.get(file.suffix)
    with open_stream(file) as stream:
        if part.format == "html":
            yield _page(url, decompressed(stream, codec), pages.max_bytes)
        elif part.format == "jsonl":
            span = (codec, part.start, part.stop, part.share)
            yield from read_jsonl(stream, pages.columns, pages.max_bytes, *span)
        else:
            yield from read_warc(stream, pages.max_bytes)


def _read_parquet(file: Location, part: Slice, pages: Pages) -> Iterator[Record]:
    try:
        opened = open_parquet(file)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise_storage_failure(error)
        yield Lost(None, 0, "bad_record", f"no Parquet file: {error}")
        return
    stop = opened.num_row_groups if part.stop is None else part.stop
    yield from read_parquet(opened, range(part.start, stop), pages.columns, pages.max_bytes)


def _page(url: str | None, pieces: Iterator[bytes | Damage], max_bytes: int) -> Record:
    """The page in an HTML file."""
    body = b""
    for piece in pieces:
        if isinstance(piece, Damage):
            return Lost(url, piece.offset, "bad_record", piece.message)
        body += piece
        if len(body) > max_bytes:
            return Page(url, 0, 200, "text/html", too_large=True)
    return Page(url, 0, 200, "text/html", body=body)


def lines(files: Sequence[Location]) -> Iterator[str]:
    """The lines of text files, which may be compressed.

    Raises ValueError for a file that is damaged or not in UTF-8.
    """
    for file in files:
        yield from whole(file).decode().splitlines()
