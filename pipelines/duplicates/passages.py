"""The step that takes out passages which a corpus repeats: lines, paragraphs, runs of sentences.

Of each passage a part sends one row to the partition of its hash: how often it stands in the part,
and where first, by a hash of the document's id. Where there are enough of them in all, every part
that has some is told which is the first of the corpus, and edits its documents again.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from filters.passages import NO_KEY, Passages, covered, passages, without
from filters.rules import Mask, Rule, below, flag, reasons, share
from pipelines.config import steps
from pipelines.duplicates.alike import names
from pipelines.duplicates.keys import Keys, salts
from pipelines.duplicates.near import firsts, nodes
from pipelines.stage import (
    Part,
    Pieces,
    Place,
    Stage,
    by_part,
    measures_of,
    partitions,
    scatter,
    write_documents,
)
from shards import ledger, schema

FOUND = pa.schema(
    [
        ("key", pa.uint64()),
        ("name", pa.uint64()),  # a hash of the id of the first document with it
        ("node", pa.int64()),  # the place of that document, as in `pipelines.duplicates.near`
        ("at", pa.int32()),  # the number of its first piece among those of the part
        ("times", pa.int32()),
    ]
)
REPEATED = pa.schema([("key", pa.uint64()), ("node", pa.int64()), ("at", pa.int32())])

NOTHING_LEFT = "passages_nothing_left"
TOO_FEW_WORDS = "passages_too_few_words"
REMOVED = "passages_removed"  # the measure: the share of its words that a document lost

Group = tuple[int, Iterable[pa.Table]]


def passages_stage(name: str, source: Stage, options: steps.Passages) -> Stage:
    """Edit out what is repeated; documents that are empty or too short then are dropped."""
    return Stage(
        name,
        partial(_dedupe, options=options),
        options.model_dump(),
        (
            "pipelines.duplicates.passages",
            "pipelines.duplicates.near",
            "pipelines.duplicates.keys",
            "pipelines.duplicates.alike",
        ),
        inputs=(source.name,),
    )


def _dedupe(parts: Any, place: Place, options: steps.Passages) -> Any:
    found = (
        parts
        | "passages" >> beam.FlatMap(_send, place, options)
        | "by passage" >> beam.GroupByKey()
        | "repeated" >> beam.FlatMap(_repeated, place, options)
    )
    return by_part(parts, found, REPEATED) | "write" >> beam.Map(_write, place, options)


def _read(documents: pa.Table, options: steps.Passages) -> tuple[Passages, Keys]:
    """The passages of the documents' text parts, and their keys within the scope."""
    owners, parts = schema.flatten_parts(documents)
    there = parts.field("text").is_valid()
    texts = parts.field("text").filter(there).to_pylist()
    found = passages(texts, options.unit, options.span)
    if options.scope is None:
        return found, found.keys
    within = salts(documents, options.scope)[np.asarray(owners.filter(there))]
    keys = np.maximum(found.keys ^ within[found.texts], 1)
    return found, np.where(found.keys == NO_KEY, found.keys, keys)


def _send(part: int, place: Place, options: steps.Passages) -> Pieces:
    with place.clock():
        documents = place.read(part)
        found, keys = _read(documents, options)
        table = _first_of_part(documents, found, keys, part)
        targets = np.asarray(table["key"]) % np.uint64(partitions(place))
        return place.sent(scatter(table, targets.astype(np.int64)))


def _first_of_part(documents: pa.Table, found: Passages, keys: Keys, part: int) -> pa.Table:
    """A row of `FOUND` for each key."""
    at = np.flatnonzero(keys != NO_KEY)
    owners, parts = schema.flatten_parts(documents)
    rows = np.asarray(owners.filter(parts.field("text").is_valid()))[found.texts[at]]
    name, node, key = names(documents["id"])[rows], nodes(part, len(documents))[rows], keys[at]
    order = np.lexsort((at, node, name, key))
    key = key[order]
    first, times = np.unique(firsts(key), return_counts=True)
    chosen = order[first]
    columns = [key[first], name[chosen], node[chosen], at[chosen].astype(np.int32)]
    return pa.table([*columns, times.astype(np.int32)], schema=FOUND)


def _repeated(group: Group, place: Place, options: steps.Passages) -> Pieces:
    """Passages that occur often enough, and which is the first, to each part that has them."""
    with place.clock():
        rows = pa.concat_tables(group[1]).combine_chunks()
        key, name, node, at, times = (np.asarray(column) for column in rows.columns)
        order = np.lexsort((at, node, name, key))
        key, node, at, times = key[order], node[order], at[order], times[order]
        first = firsts(key)
        often = np.bincount(first, times, len(first))[first] >= options.least
        table = pa.table([key[often], node[first][often], at[first][often]], schema=REPEATED)
        return place.sent(scatter(table, node[often] >> 32))


def _write(group: Group, place: Place, options: steps.Passages) -> int:
    part, tables = group
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            repeated = pa.concat_tables(tables).sort_by("key")
            result, measures = _edit(documents, repeated, part, options)
            write_documents(place, part, documents, result, measures=measures)
    return part


def _edit(
    documents: pa.Table, repeated: pa.Table, part: int, options: steps.Passages
) -> tuple[Part, pa.Table]:
    """Documents without the passages that go, the ledger's rows of those dropped, and measures."""
    found, keys = _read(documents, options)
    gone = covered(found, _lost(keys, repeated, part, options))
    edited = schema.with_texts(documents, lambda texts: without(texts, found, gone))
    words = _sums(documents, found, found.words)
    lost = _sums(documents, found, found.words * gone)
    left = np.where(lost > 0, words - lost, np.nan)  # what is not edited is not judged
    rules = [flag(NOTHING_LEFT, left == 0), below(TOO_FEW_WORDS, left, options.min_words)]
    why = reasons(rules)
    drops = ledger.drop_rows(documents, why.to_pylist())
    measures = measures_of(documents, [*rules, Rule(REMOVED, share(lost, words))])
    return (edited.filter(why.is_null()), drops), measures


def _lost(keys: Keys, repeated: pa.Table, part: int, options: steps.Passages) -> Mask:
    """Which passages go, by the piece that they start with."""
    key, node, at = (np.asarray(repeated[name]) for name in REPEATED.names)
    if not len(key):
        return np.zeros(len(keys), bool)
    where = np.minimum(np.searchsorted(key, keys), len(key) - 1)
    lost: Mask = key[where] == keys
    if options.keep == "first":
        lost &= ~((node[where] >> 32 == part) & (at[where] == np.arange(len(keys))))
    return lost


def _sums(documents: pa.Table, found: Passages, values: Any) -> Any:
    """The sum over each document of one number for each piece; an array of [documents]."""
    _, parts = schema.flatten_parts(documents)
    texts = len(parts) - parts.field("text").null_count
    return schema.text_sums(documents, np.bincount(found.texts, values, texts))
