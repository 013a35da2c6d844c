"""Image-caption pairs: a table of URLs and alt texts becomes unique, scored pairs."""

import io
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import apache_beam as beam
import pyarrow as pa

from configs.reading import ConfigError
from pipelines.config import Captions, Download, Tables, expand
from pipelines.dedupe import dedupe_stage
from pipelines.images import download_stage, image_filter_stage
from pipelines.score import score_stage
from pipelines.stage import Part, Place, Stage, filter_stage, write_documents
from shards import ledger, schema
from shards.storage import Location, in_parallel, open_stream, read_rows, row_count
from shards.stores.options import StorageOptions

Slice = tuple[Location, int, int]  # file, first row, rows


def stages(recipe: Captions, options: Download, storage: StorageOptions) -> list[Stage]:
    """The corpus from top to bottom; captions are judged before their images are fetched."""
    read = read_stage("captions/read", recipe.read, storage)
    worded = filter_stage(
        "captions/caption_filters", read, recipe.caption_filters, "filters.captions"
    )
    fetched = download_stage("captions/download", worded, options)
    pictured = image_filter_stage("captions/image_filters", fetched, fetched, recipe.image_filters)
    unique = dedupe_stage("captions/dedupe", pictured, recipe.dedupe)
    scored = score_stage("captions/score", unique, fetched, recipe.clip)
    kept = image_filter_stage("captions/keep", scored, fetched, recipe.keep)
    return [read, worded, fetched, pictured, unique, scored, kept]


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
    return [
        (file, first, min(size, rows - first))
        for file, rows in zip(files, in_parallel(_rows_of, files), strict=True)
        for first in range(0, rows, size)
    ]


def _rows_of(file: Location) -> int:
    if file.suffix == ".parquet":
        return row_count(file)
    with open_stream(file) as lines:
        return max(sum(1 for _ in lines) - 1, 0)


def _read(parts: Any, place: Place, tables: Tables, slices: Sequence[Slice]) -> Any:
    return parts | "read" >> beam.Map(_read_part, place, tables, slices)


def _read_part(part: int, place: Place, tables: Tables, slices: Sequence[Slice]) -> int:
    with place.clock():
        if not place.has(part):
            file, first, rows = slices[part]
            table = _load(file, first, rows)
            write_documents(place, part, table, pairs(table, tables, file=str(file), first=first))
    return part


def _load(file: Location, first: int, rows: int) -> pa.Table:
    if file.suffix == ".parquet":
        return read_rows(file, first, rows)
    # By hand, because a CSV reader guesses types and stops at the first line of a wrong width.
    with io.TextIOWrapper(open_stream(file), "utf-8-sig", "replace", "\n") as lines:
        names = next(lines, "").rstrip("\r\n").split("\t")
        cells = [_cells(line) for line in islice(lines, first, first + rows)]
    columns = pa.schema([(name, pa.string()) for name in names])
    return pa.Table.from_pylist([dict(zip(names, c, strict=False)) for c in cells], schema=columns)


def _cells(line: str) -> list[str | None]:
    """The cells of a line of TSV; an empty one is null."""
    return [cell or None for cell in line.rstrip("\r\n").split("\t")]


def pairs(table: pa.Table, tables: Tables, *, file: str, first: int) -> Part:
    """The documents of a slice of a URL table, and ledger rows of what is no pair.

    Raises `ConfigError` when the table lacks a column that the recipe names.
    """
    for column in filter(None, (tables.url, tables.text, tables.licence)):
        if column not in table.column_names:
            raise ConfigError(
                f"{file}: no column {column!r}; it has {', '.join(table.column_names)}"
            )
    documents, drops = [], []
    for i, row in enumerate(table.to_pylist()):
        url, text = row[tables.url], row[tables.text]
        licence = row[tables.licence] if tables.licence else None
        pair = schema.document(
            tables.source,
            None,
            [schema.image_part(url or ""), schema.text_part(text or "")],
            licence=licence,
            file=file,
            position=first + i,
        )
        reason = "no_url" if not url else "no_caption" if not (text or "").strip() else None
        if reason:
            drops.append(ledger.drop_row(pair, reason))
        else:
            documents.append(pair)
    return schema.documents(documents), pa.Table.from_pylist(drops, schema=schema.DROP)
