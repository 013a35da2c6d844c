"""Image-caption pairs, read from tables of URLs and alternative texts."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, BinaryIO

import apache_beam as beam
import pyarrow as pa

from configs.reading import ConfigError
from pipelines.config import Tables, expand
from pipelines.stage import Part, Place, Stage, write_documents
from shards import ledger, schema
from shards.storage import Location, in_parallel, open_stream, read_rows, row_count
from shards.storage import size as file_size
from shards.stores.options import StorageOptions

# File and range: rows of Parquet, bytes of TSV, of which a slice has the lines that begin in it.
Slice = tuple[Location, int, int]
HEAD = 1 << 16  # bytes of a TSV that tell how long its lines are


def read_stage(name: str, tables: Tables, storage: StorageOptions) -> Stage:
    """Rows of the URL tables as `[image, text]` documents, in parts of equal size."""
    files = expand(tables.files, "corpora.captions.read.files", storage)
    slices = _slices(files, tables.rows_per_part)
    return Stage(
        name,
        partial(_read, tables=tables, slices=slices),
        tables.model_dump(),
        ("pipelines.captions",),
        files=tuple(files),
        parts=lambda _: len(slices),
    )


def _slices(files: Sequence[Location], size: int) -> list[Slice]:
    """Slices of about `size` rows; no file is read through to find them."""
    return [
        (file, start, min(start + step, end))
        for file, (begin, end, step) in zip(
            files, in_parallel(partial(_extent, size=size), files), strict=True
        )
        for start in range(begin, end, step)
    ]


def _extent(file: Location, size: int) -> tuple[int, int, int]:
    """Begin, end and step of a file's slices."""
    if file.suffix == ".parquet":
        return 0, row_count(file), size
    with open_stream(file) as stream:
        header = len(stream.readline())
        head = stream.read(HEAD)
    length = len(head) / max(head.count(b"\n"), 1)
    return header, file_size(file), max(round(size * length), 1)


def _read(parts: Any, place: Place, tables: Tables, slices: Sequence[Slice]) -> Any:
    return parts | "read" >> beam.Map(_read_part, place, tables, slices)


def _read_part(part: int, place: Place, tables: Tables, slices: Sequence[Slice]) -> int:
    with place.clock():
        if not place.has(part):
            file = slices[part][0]
            table, positions = _load(*slices[part])
            result = pairs(table, tables, file=str(file), positions=positions)
            write_documents(place, part, table, result)
    return part


def _load(file: Location, start: int, stop: int) -> tuple[pa.Table, Sequence[int]]:
    """The rows of a slice, and the position of each in its file: its number, or its first byte."""
    if file.suffix == ".parquet":
        return read_rows(file, start, stop - start), range(start, stop)
    with open_stream(file) as stream:
        names = _cells(stream.readline(), "utf-8-sig")
        lines = list(_lines(stream, start, stop))
    columns = pa.schema([(name or "", pa.string()) for name in names])
    # By hand, because a CSV reader guesses types and stops at the first line of a wrong width.
    rows = [dict(zip(columns.names, _cells(line), strict=False)) for _, line in lines]
    return pa.Table.from_pylist(rows, schema=columns), [position for position, _ in lines]


def _lines(stream: BinaryIO, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """The lines that begin in [start, stop), with where they do."""
    stream.seek(start - 1)
    position = start - 1 + len(stream.readline())  # the end of the line that byte start - 1 is in
    while position < stop:
        line = stream.readline()
        yield position, line
        position += len(line)


def _cells(line: bytes, encoding: str = "utf-8") -> list[str | None]:
    """The cells of a line of TSV; an empty one is null."""
    return [cell or None for cell in line.decode(encoding, "replace").rstrip("\r\n").split("\t")]


def pairs(table: pa.Table, tables: Tables, *, file: str, positions: Sequence[int]) -> Part:
    """The documents of a slice of a URL table, and ledger rows of what is no pair.

    Raises `ConfigError` when the table lacks a column that the recipe names.
    """
    for column in filter(None, (tables.url, tables.text, tables.licence)):
        if column not in table.column_names:
            raise ConfigError(
                f"{file}: no column {column!r}; it has {', '.join(table.column_names)}"
            )
    documents, drops = [], []
    for position, row in zip(positions, table.to_pylist(), strict=True):
        url, text = row[tables.url], row[tables.text]
        licence = row[tables.licence] if tables.licence else None
        pair = schema.document(
            tables.source,
            None,
            [schema.image_part(url or ""), schema.text_part(text or "")],
            licence=licence,
            file=file,
            position=position,
        )
        reason = "no_url" if not url else "no_caption" if not (text or "").strip() else None
        if reason:
            drops.append(ledger.drop_row(pair, reason))
        else:
            documents.append(pair)
    return schema.documents(documents), pa.Table.from_pylist(drops, schema=schema.DROP)
