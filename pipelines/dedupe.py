"""Duplicates, found by keys alone: what goes through the shuffle is a key, a rank and a row number.

Every record sends one row per key to the partition of that key. In a partition, records with
equal keys are put in a fixed order (longest first, then smallest id, then place) and all but the
first are duplicates of it. The verdicts go back to the parts that the records came from. No step
needs all keys in one place, and nothing depends on the order in which rows arrive.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters import minhash
from pipelines.config import Dedupe, Near
from pipelines.images import drop_images
from pipelines.stage import (
    MOST_PARTITIONS,
    Part,
    Pieces,
    Place,
    Stage,
    by_part,
    scatter,
    write_documents,
)
from shards import ledger, schema

KEY = pa.schema(
    [
        ("key", pa.string()),  # begins with the kind of the key
        ("reason", pa.string()),
        ("priority", pa.int32()),  # the kinds' order: decides which reason a record is given
        ("rank", pa.int64()),  # smaller is better; of images, how often a part shows one
        ("id", pa.string()),
        ("part", pa.int32()),
        ("row", pa.int32()),
    ]
)
LOSER = pa.schema([*KEY, ("keeper", pa.string())])
ORDER = ["key", "rank", "id", "part", "row"]

Split = Callable[[int], Pieces]
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
    split = partial(_split_keys, place=place, options=options)
    return _by_key(parts, place, split, losers, drop_losers, images=False)


def _drop_frequent_images(parts: Any, place: Place, most: int) -> Any:
    split = partial(_split_images, place=place)
    verdicts = partial(frequent, most=most)
    return _by_key(parts, place, split, verdicts, drop_frequent, images=True)


def _by_key(
    parts: Any, place: Place, split: Split, verdicts: Verdicts, apply: Apply, *, images: bool
) -> Any:
    found = (
        parts
        | "keys" >> beam.FlatMap(split)
        | "by key" >> beam.GroupByKey()
        | "judge" >> beam.FlatMap(_judge, place, verdicts)
    )
    return by_part(parts, found, LOSER) | "write" >> beam.Map(_write, place, apply, images)


def _split_keys(part: int, place: Place, options: Dedupe) -> Pieces:
    """The best record of each key, to the partition of the key; the others have lost already.

    So a key sends one row a part, however often it occurs. Losers go to partitions of their own,
    one a part, and pass through.
    """
    with place.clock():
        table = document_keys(place.read(part), part, options=options).sort_by(_ascending(ORDER))
        lost = _runs(table["key"]) != np.arange(table.num_rows)
        rows = _with_keepers(table)
    partitions = _partitions(place)
    targets = np.where(lost, partitions + part, _hashes(table) % partitions)
    return place.sent(scatter(rows, targets))


def _split_images(part: int, place: Place) -> Pieces:
    """How often the part shows each image, to the partition of the image."""
    with place.clock():
        table = image_keys(place.read(part), part)
    rows = table.append_column(LOSER.field("keeper"), table["id"])
    return place.sent(scatter(rows, _hashes(table) % _partitions(place)))


def _partitions(place: Place) -> int:
    return min(place.parts, MOST_PARTITIONS)


def _hashes(table: pa.Table) -> NDArray[np.int64]:
    keys = table["key"].to_pylist()
    return np.array([int(schema.digest(key)[:8], 16) for key in keys], np.int64)


def _judge(group: tuple[int, Iterable[pa.Table]], place: Place, verdicts: Verdicts) -> Pieces:
    partition, tables = group
    rows = pa.concat_tables(tables).combine_chunks()
    if partition < _partitions(place):
        with place.clock():
            rows = verdicts(rows.select(KEY.names).sort_by(_ascending(ORDER)))
    return place.sent(scatter(rows, rows["part"]))


def _ascending(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, "ascending") for name in names]


def _write(group: tuple[int, Iterable[pa.Table]], place: Place, apply: Apply, images: bool) -> int:
    part, verdicts = group
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            result = apply(documents, _last_word(pa.concat_tables(verdicts).combine_chunks()))
            write_documents(place, part, documents, result, images=images)
    return part


def _last_word(verdicts: pa.Table) -> pa.Table:
    """Verdicts of a part in which all rows of a key name the keeper of the whole corpus.

    A row that lost within its part names the part's best. If that one lost in turn, its own row
    is here as well, the first of its key, and names the best of all.
    """
    rows = verdicts.sort_by(_ascending(ORDER))
    keeper = rows["keeper"].take(pa.array(_runs(rows["key"])))
    return schema.with_column(rows, "keeper", keeper)


def _runs(keys: pa.ChunkedArray) -> NDArray[np.int64]:
    """For each of the sorted `keys` the position of the first one equal to it."""
    new = np.ones(len(keys), dtype=bool)
    new[1:] = pc.not_equal(keys[1:], keys[:-1])
    return np.maximum.accumulate(np.where(new, np.arange(len(keys)), 0))


def losers(keys: pa.Table) -> pa.Table:
    """Every record that is not the first of its key, with the id of the one that is."""
    first = _runs(keys["key"])
    return _with_keepers(keys).filter(pa.array(first != np.arange(len(first))))


def _with_keepers(keys: pa.Table) -> pa.Table:
    """Sorted rows with the id of the first one of their key."""
    keeper = keys["id"].take(pa.array(_runs(keys["key"])))
    return keys.append_column(LOSER.field("keeper"), keeper)


def frequent(keys: pa.Table, *, most: int) -> pa.Table:
    """Every row whose key occurs, over all rows' `rank`, more than `most` times."""
    first = _runs(keys["key"])
    counts = np.bincount(first, np.asarray(keys["rank"]), minlength=len(first))
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
    order = _ascending(["row", "priority", "keeper"])
    reasons: list[str | None] = [None] * documents.num_rows
    keepers: list[str | None] = [None] * documents.num_rows
    for verdict in reversed(verdicts.sort_by(order).to_pylist()):
        reasons[verdict["row"]], keepers[verdict["row"]] = verdict["reason"], verdict["keeper"]
    keep = pa.array([reason is None for reason in reasons], pa.bool_())
    return documents.filter(keep), ledger.drop_rows(documents, reasons, details=keepers)


def image_keys(documents: pa.Table, part: int) -> pa.Table:
    """One row for every image of a part of the corpus; its rank is how often the part shows it."""
    shown = schema.flatten_parts(documents)[1].field("image").drop_null().value_counts()
    n = len(shown)
    columns = [
        shown.field("values"),
        pa.array(["image_too_frequent"] * n, pa.string()),
        pa.array([0] * n, pa.int32()),
        shown.field("counts"),
        pa.array([""] * n, pa.string()),
        pa.array([part] * n, pa.int32()),
        pa.array([0] * n, pa.int32()),
    ]
    return pa.table(columns, schema=KEY)


def drop_frequent(documents: pa.Table, verdicts: pa.Table) -> Part:
    """Take out the image parts that occur too often in the corpus."""
    images = schema.flatten_parts(documents)[1].field("image")
    lost = pc.is_in(images, verdicts["key"].combine_chunks()).to_pylist()
    return drop_images(documents, ["image_too_frequent" if each else None for each in lost])
