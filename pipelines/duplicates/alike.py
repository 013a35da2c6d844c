"""Candidates for near-duplicates, compared by their shingles themselves.

Documents that share a band are alike with some probability. Where a recipe asks for it, they are
linked only if their Jaccard similarity, counted and not estimated, is at least what it says. The
documents of a band are put in the order of their hashed ids, which no division into parts changes,
and each is compared with the first and with those just before it; up to a size these are all pairs.

Pairs go to the part of one document, which sends its shingles on to the part of the other.
"""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters import minhash
from pipelines.config.steps import Near
from pipelines.duplicates import clusters
from pipelines.duplicates.clusters import Nodes
from pipelines.stage import Pieces, Place, partitions, scatter
from shards import schema

NAMED = pa.schema(
    [
        ("key", pa.uint64()),
        ("name", pa.uint64()),  # a hash of the document's id
        ("node", pa.int64()),
    ]
)
PAIR = clusters.EDGE
SHOWN = pa.schema([*PAIR, ("shingles", pa.list_(pa.uint32()))])  # those of `other`

WINDOW = 8  # documents before it in a band that each is compared with, and the first

Group = tuple[int, Iterable[pa.Table]]


def compared(named: Any, place: Place, near: Near) -> Any:
    """From the rows of bands to pairs, by the partition of each end, that are alike enough."""
    return (
        named
        | "by band" >> beam.GroupByKey()
        | "pairs" >> beam.FlatMap(_pairs, place)
        | "to one's part" >> beam.GroupByKey()
        | "show" >> beam.FlatMap(_show, place, near)
        | "to the other's part" >> beam.GroupByKey()
        | "compare" >> beam.FlatMap(_compare, place, near)
    )


def names(ids: pa.ChunkedArray) -> minhash.Hashes:
    """A hash of each id."""
    return np.array([int(schema.digest(each)[:16], 16) for each in ids.to_pylist()], np.uint64)


def by_band(rows: pa.Table, place: Place) -> Pieces:
    """Rows of `NAMED`, to the partitions of their keys."""
    targets = np.asarray(rows["key"]) % np.uint64(partitions(place))
    return place.sent(scatter(rows, targets.astype(np.int64)))


def candidates(rows: pa.Table) -> tuple[Nodes, Nodes]:
    """The distinct pairs of documents to compare, of all that share a band."""
    key, name, node = (np.asarray(rows[column]) for column in NAMED.names)
    order = np.lexsort((node, name, key))
    key, node = key[order], node[order]
    first, at = np.searchsorted(key, key), np.arange(len(key))
    others = [first, *(at - back for back in range(1, WINDOW + 1))]
    pairs = [(node[at[o >= first]], node[o[o >= first]]) for o in others]
    ends = np.sort(np.concatenate([np.stack(pair) for pair in pairs], axis=1), axis=0)
    low, high = np.unique(ends[:, ends[0] != ends[1]], axis=1)
    return low, high


def _pairs(group: Group, place: Place) -> Pieces:
    with place.clock():
        low, high = candidates(pa.concat_tables(group[1]).combine_chunks())
        return place.sent(scatter(pa.table([high, low], schema=PAIR), low >> 32))


def _show(group: Group, place: Place, near: Near) -> Pieces:
    """Each pair with the shingles of its lower end, to the part of the upper one."""
    part, tables = group
    with place.clock():
        pairs = pa.concat_tables(tables).group_by(PAIR.names).aggregate([])
        low = np.asarray(pairs["other"])
        shown = _shingles(place.read(part), low, near)
        lists = pa.array([shown[node] for node in low.tolist()], pa.list_(pa.uint32()))
        table = pa.table([pairs["node"], pairs["other"], lists], schema=SHOWN)
        return place.sent(scatter(table, np.asarray(pairs["node"]) >> 32))


def _compare(group: Group, place: Place, near: Near) -> Pieces:
    part, tables = group
    with place.clock():
        rows = pa.concat_tables(tables)
        mine = _shingles(place.read(part), np.asarray(rows["node"]), near)
        alike = [
            minhash.jaccard(mine[node], theirs.values.to_numpy()) >= (near.verify or 0)
            for node, theirs in zip(rows["node"].to_pylist(), rows["shingles"], strict=True)
        ]
        return clusters.both_ways(rows.filter(pa.array(alike, pa.bool_())), place)


def _shingles(documents: pa.Table, nodes: Nodes, near: Near) -> dict[int, NDArray[np.uint32]]:
    """The shingles of some documents of a part, by place, as halves of their hashes."""
    wanted = np.unique(nodes)
    texts = schema.texts(documents.take(pa.array(wanted & clusters.ROW)))
    found = (minhash.shingles(text, ngram=near.ngram) for text in texts)
    halves = [np.unique((hashes >> np.uint64(32)).astype(np.uint32)) for hashes in found]
    return dict(zip(wanted.tolist(), halves, strict=True))
