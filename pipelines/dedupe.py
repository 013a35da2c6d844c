"""Duplicates, found by keys alone: what goes through the shuffle is a key, a rank and a row number.

Every record sends one row per key to the partition of that key. In a partition, records with
equal keys are put in a fixed order (longest first, then smallest id, then place) and all but the
first are duplicates of it. The verdicts go back to the parts that the records came from. No step
needs all keys in one place, and nothing depends on the order in which rows arrive.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from filters import minhash
from pipelines.config import Dedupe, Near
from pipelines.images import drop_images
from pipelines.stage import Part, Pieces, Place, Stage, by_part, scatter, write_documents
from shards import ledger, schema

KEY = pa.schema(
    [
        ("key", pa.string()),  # begins with the kind of the key
        ("reason", pa.string()),
        ("priority", pa.int32()),  # the kinds' order: decides which reason a record is given
        ("rank", pa.int64()),  # smaller is better
        ("id", pa.string()),
        ("part", pa.int32()),
        ("row", pa.int32()),
    ]
)
# Partitions of keys. Every part sends each partition a piece of its own, so that their number is
# bounded by what keeps pieces long; a billion keys are then a million rows a partition.
MOST_PARTITIONS = 1024
ORDER = ["key", "rank", "id", "part", "row"]

Keys = Callable[[pa.Table, int], pa.Table]
Verdicts = Callable[[pa.Table], pa.Table]
Apply = Callable[[pa.Table, pa.Table], Part]


def dedupe_stage(name: str, source: Stage, options: Dedupe) -> Stage:
    """Keep one document of every group of duplicates."""
    return Stage(
        name,
        partial(_dedupe, options=options),
        options.model_dump(),
        ("pipelines.dedupe",),
        inputs=(source.name,),
    )


def image_copies_stage(name: str, source: Stage, most: int) -> Stage:
    """Take out every image that the corpus shows more than `most` times (OBELICS, MM1: 10)."""
    return Stage(
        name,
        partial(_drop_frequent_images, most=most),
        most,
        ("pipelines.dedupe", "pipelines.images"),
        inputs=(source.name,),
    )


def _dedupe(parts: Any, place: Place, options: Dedupe) -> Any:
    keys = partial(document_keys, options=options)
    return _by_key(parts, place, keys, losers, drop_losers, images=False)


def _drop_frequent_images(parts: Any, place: Place, most: int) -> Any:
    verdicts = partial(frequent, most=most)
    return _by_key(parts, place, image_keys, verdicts, drop_frequent, images=True)


def _by_key(
    parts: Any, place: Place, keys: Keys, verdicts: Verdicts, apply: Apply, *, images: bool
) -> Any:
    found = (
        parts
        | "keys" >> beam.FlatMap(_split_keys, place, keys)
        | "by key" >> beam.GroupByKey()
        | "judge" >> beam.FlatMap(_judge, place, verdicts)
    )
    return by_part(parts, found, LOSER) | "write" >> beam.Map(_write, place, apply, images)


def _split_keys(part: int, place: Place, keys: Keys) -> Pieces:
    with place.clock():
        table = keys(place.read(part), part)
    partitions = min(place.parts, MOST_PARTITIONS)
    hashes = [int(schema.digest(key)[:8], 16) for key in table["key"].to_pylist()]
    return place.sent(scatter(table, np.array(hashes, np.int64) % partitions))


def _judge(group: tuple[int, Iterable[pa.Table]], place: Place, verdicts: Verdicts) -> Pieces:
    with place.clock():
        keys = pa.concat_tables(group[1]).sort_by([(name, "ascending") for name in ORDER])
        found = verdicts(keys)
    return place.sent(scatter(found, found["part"]))


def _write(group: tuple[int, Iterable[pa.Table]], place: Place, apply: Apply, images: bool) -> int:
    part, verdicts = group
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            result = apply(documents, pa.concat_tables(verdicts))
            write_documents(place, part, documents, result, images=images)
    return part


LOSER = pa.schema([*KEY, ("keeper", pa.string())])


def _runs(keys: list[str]) -> Any:
    """For each of the sorted `keys` the position of the first one equal to it."""
    if not keys:
        return np.empty(0, dtype=np.int64)
    new = np.array([True, *(a != b for a, b in pairwise(keys))])
    return np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))


def losers(keys: pa.Table) -> pa.Table:
    """Every record that is not the first of its key, with the id of the one that is."""
    first = _runs(keys["key"].to_pylist())
    keeper = keys["id"].take(pa.array(first))
    lost = pa.array(first != np.arange(len(first)))
    return keys.append_column(LOSER.field("keeper"), keeper).filter(lost)


def frequent(keys: pa.Table, *, most: int) -> pa.Table:
    """Every record whose key occurs more than `most` times."""
    first = _runs(keys["key"].to_pylist())
    counts = np.bincount(first, minlength=len(first))
    return keys.append_column(LOSER.field("keeper"), keys["id"]).filter(
        pa.array(counts[first] > most)
    )


def document_keys(documents: pa.Table, part: int, *, options: Dedupe) -> pa.Table:
    """One row for every key of every document."""
    texts = schema.texts(documents)
    tables = [
        _key_table(
            documents, texts, part, priority, f"duplicate_{kind}", _exact(documents, texts, kind)
        )
        for priority, kind in enumerate(options.exact)
    ]
    if options.near:
        tables += [
            _key_table(documents, texts, part, len(options.exact), "near_duplicate", band)
            for band in _bands(texts, options.near)
        ]
    return pa.concat_tables([KEY.empty_table(), *tables])


def _exact(documents: pa.Table, texts: list[str], kind: str) -> Sequence[str | None]:
    """The key of each document, null where it has nothing to compare."""
    if kind == "url":
        return [f"url:{url}" if url else None for url in documents["url"].to_pylist()]
    images = [
        [part["image"] for part in parts if part["image"]]
        for parts in documents["parts"].to_pylist()
    ]
    if kind == "image":
        return [f"image:{shown[0]}" if shown else None for shown in images]
    keys = minhash.content_key(texts)
    return [
        f"content:{schema.digest(key, *shown)}" if text.strip() or shown else None
        for text, key, shown in zip(texts, keys, images, strict=True)
    ]


def _bands(texts: list[str], near: Near) -> Iterator[list[str | None]]:
    """The keys of each band; a text without words has none."""
    signatures = minhash.signatures(texts, ngram=near.ngram, bands=near.bands, rows=near.rows)
    for band in range(near.bands):
        column = signatures[:, band].tolist()
        yield [None if key == minhash.NO_KEY else f"band:{band}:{key:016x}" for key in column]


def _key_table(
    documents: pa.Table,
    texts: list[str],
    part: int,
    priority: int,
    reason: str,
    keys: Sequence[str | None],
) -> pa.Table:
    n = documents.num_rows
    columns = [
        pa.array(keys, pa.string()),
        pa.array([reason] * n, pa.string()),
        pa.array([priority] * n, pa.int32()),
        pa.array([-len(text) for text in texts], pa.int64()),
        documents["id"].combine_chunks(),
        pa.array([part] * n, pa.int32()),
        pa.array(range(n), pa.int32()),
    ]
    table = pa.table(columns, schema=KEY)
    return table.filter(table["key"].is_valid())


def drop_losers(documents: pa.Table, verdicts: pa.Table) -> Part:
    """Drop the documents that lost, each for the first reason in the recipe's order."""
    order = [(name, "ascending") for name in ("row", "priority", "keeper")]
    reasons: list[str | None] = [None] * documents.num_rows
    keepers: list[str | None] = [None] * documents.num_rows
    for verdict in reversed(verdicts.sort_by(order).to_pylist()):
        reasons[verdict["row"]], keepers[verdict["row"]] = verdict["reason"], verdict["keeper"]
    keep = pa.array([reason is None for reason in reasons], pa.bool_())
    return documents.filter(keep), ledger.drop_rows(documents, reasons, details=keepers)


def image_keys(documents: pa.Table, part: int) -> pa.Table:
    """One row for every image part; its row number counts parts end to end."""
    parents, parts = schema.flatten_parts(documents)
    n = len(parts)
    columns = [
        parts.field("image"),
        pa.array(["image_too_frequent"] * n, pa.string()),
        pa.array([0] * n, pa.int32()),
        pa.array([0] * n, pa.int64()),
        documents["id"].combine_chunks().take(parents),
        pa.array([part] * n, pa.int32()),
        pa.array(range(n), pa.int32()),
    ]
    table = pa.table(columns, schema=KEY)
    return table.filter(table["key"].is_valid())


def drop_frequent(documents: pa.Table, verdicts: pa.Table) -> Part:
    """Take out the image parts that occur too often in the corpus."""
    reasons: list[str | None] = [None] * len(schema.flatten_parts(documents)[1])
    for row, reason in zip(
        verdicts["row"].to_pylist(), verdicts["reason"].to_pylist(), strict=True
    ):
        reasons[row] = reason
    return drop_images(documents, reasons)
