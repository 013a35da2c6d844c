"""Image-caption pairs: rows of URL tables become documents of an image and its text."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipelines.config.sources import Tables
from pipelines.reading.records import Lost, lost_row
from pipelines.reading.tables import Row, Slice, read_slice, slices
from pipelines.stage import Part, Place, Stage
from shards import ledger, schema
from shards.ledger import part_name
from shards.storage import write_table
from shards.stores.options import StorageOptions


def read_stage(name: str, sources: Sequence[Tables], storage: StorageOptions) -> Stage:
    """Rows of the tables of all sources as `[image, text]` documents, in parts of equal size."""
    parts = [part for tables, key in _named(sources) for part in slices(tables, key, storage)]
    return Stage(
        name,
        partial(_read, parts=parts, adopts=any(tables.adopts for tables in sources)),
        [tables.model_dump() for tables in sources],
        (
            "pipelines.reading.captions",
            "pipelines.reading.tables",
            "pipelines.reading.rows",
            "pipelines.reading.compressed",
        ),
        files=tuple(dict.fromkeys(part.file for part in parts)),
        parts=lambda _: len(parts),
    )


def _named(sources: Sequence[Tables]) -> Iterator[tuple[Tables, str]]:
    """Each source with the recipe's key for it."""
    key = "corpora.captions.read"
    for number, tables in enumerate(sources):
        yield tables, key if len(sources) == 1 else f"{key}.{number}"


def _read(numbers: Any, place: Place, parts: Sequence[Slice], adopts: bool) -> Any:
    return numbers | "read" >> beam.Map(_read_part, place, parts, adopts)


def _read_part(number: int, place: Place, parts: Sequence[Slice], adopts: bool) -> int:
    with place.clock():
        if not place.has(number):
            part = parts[number]
            rows = list(read_slice(part))
            documents, drops = pairs(rows, part.tables, str(part.file))
            read = pa.concat_tables([documents.select(["id"]), drops.select(["id"])])
            if adopts:
                write_table(place.out / "index" / f"{part_name(number)}.parquet", adopted(rows))
            place.write(
                number,
                documents,
                drops,
                read={"document": read.num_rows},
                kept={"document": documents.num_rows},
            )
    return number


def adopted(rows: Iterable[tuple[int, Row | Lost]]) -> pa.Table:
    """Rows of `schema.IMAGE`, one a URL, of the pictures that rows of WebDataset shards hold."""
    known: dict[str, Any] = {}
    for _, row in rows:
        if not isinstance(row, Lost) and "picture" in row:
            known.setdefault(row["url"], {"url": row["url"]} | row["picture"])
    return pa.Table.from_pylist(list(known.values()), schema=schema.IMAGE)


def pairs(rows: Iterable[tuple[int, Row | Lost]], tables: Tables, file: str) -> Part:
    """The documents of a slice of a URL table, and ledger rows of what is no pair.

    A row with a synthetic caption is two documents, which share the image.
    """
    documents, drops = [], []
    for position, row in rows:
        if isinstance(row, Lost):
            drops.append(lost_row(row, tables.source, file))
            continue
        for source, text in _captions(row, tables):
            pair = _pair(row, source, text, tables, file, position)
            if reason := _reason(row, text):
                drops.append(ledger.drop_row(pair, reason))
            else:
                documents.append(pair)
    return schema.documents(documents), pa.Table.from_pylist(drops, schema=schema.DROP)


def _captions(row: Row, tables: Tables) -> Iterator[tuple[str, str]]:
    """The captions of a row, each with its source; a missing synthetic one is no loss."""
    yield tables.source, row["text"] or ""
    if tables.synthetic and row["synthetic"]:
        yield tables.synthetic.source, row["synthetic"]


def _reason(row: Row, text: str) -> str | None:
    return "no_url" if not row["url"] else None if text.strip() else "no_caption"


def _pair(
    row: Row, source: str, text: str, tables: Tables, file: str, position: int
) -> dict[str, Any]:
    """A row of `schema.DOCUMENT`."""
    return schema.document(
        source,
        None,
        [
            schema.image_part(row["url"] or "", expected_hash=row.get("hash")),
            schema.text_part(text),
        ],
        licence=row.get("licence") or tables.default_licence,
        extra=_json(row["extra"]),
        file=file,
        position=position,
    )


def _json(extra: dict[str, Any]) -> str | None:
    return json.dumps(extra, sort_keys=True, ensure_ascii=False) if extra else None
