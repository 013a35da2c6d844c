"""Pictures that look alike (`filters.looks`): links between the documents that show them.

Documents whose pictures look exactly the same are linked by that, as by any key; so a part sends
each look once, however many copies of a blank picture it has. Hashes within `distance` bits agree
in at least one of `distance + 1` blocks of bits: each look goes to the partition of every block's
value, and there `filters.hamming` finds those that are near, of which all that is known is
compared. A block of six bits has values enough for hundreds of partitions, of which none holds
more than a few hundredths of all looks, 293 bytes a row. Of what a partition finds alike it sends
on a tree, not all pairs.
"""

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.hamming import blocks, close_pairs
from filters.looks import NONE, SCOPED, Limits, alike
from pipelines.config.steps import NearImage
from pipelines.duplicates import clusters
from pipelines.duplicates.clusters import Nodes
from pipelines.stage import Pieces, Place, partitions, scatter

NODE = pa.schema([*SCOPED, ("node", pa.int64())])
BANDED = pa.schema([*NODE, ("band", pa.int8())])

Group = tuple[int, Iterable[pa.Table]]


def limits(asked: NearImage) -> Limits:
    """What a recipe asks for, as rules take it."""
    return Limits(asked.distance)


def by_block(looks: pa.Table, nodes: Nodes, place: Place, distance: int) -> Pieces:
    """Looks with the least node that has each, to the partitions of all of their blocks."""
    rows = distinct(looks.append_column("node", pa.array(nodes)).cast(NODE))
    masks = np.array(blocks(distance + 1), np.uint64)
    values = np.asarray(rows["phash"])[:, None] & masks
    spread = clusters.mixed(values ^ (np.arange(len(masks), dtype=np.uint64) << np.uint64(56)))
    every = rows.take(pa.array(np.repeat(np.arange(len(rows)), len(masks))))
    bands = pa.array(np.tile(np.arange(len(masks)), len(rows)), pa.int8())
    targets = (spread.ravel() % np.uint64(partitions(place))).astype(np.int64)
    return place.sent(scatter(every.append_column(BANDED.field("band"), bands), targets))


def distinct(rows: pa.Table) -> pa.Table:
    """Each look once, with its least node, in an order that no division into parts changes."""
    least = rows.group_by(SCOPED.names).aggregate([("node", "min")])
    order = [(name, "ascending") for name in SCOPED.names]
    found = least.sort_by(order).rename_columns(NODE.names).cast(NODE)
    return found.filter(pc.not_equal(found["phash"], pa.scalar(NONE, pa.uint64()))).combine_chunks()


def linked(banded: Any, place: Place, asked: NearImage) -> Any:
    """From rows of `BANDED` to links, by the partition of each end."""
    grouped = banded | "by block" >> beam.GroupByKey()
    return grouped | "look alike" >> beam.FlatMap(_compare, place, limits(asked))


def _compare(group: Group, place: Place, limits: Limits) -> Pieces:
    with place.clock():
        rows = pa.concat_tables(group[1]).combine_chunks()
        return clusters.both_ways(clusters.forest(*pairs(rows, limits)), place)


def pairs(rows: pa.Table, limits: Limits) -> tuple[Nodes, Nodes]:
    """The nodes that look alike and that a block brings together, of rows of `BANDED`."""
    masks, found = blocks(limits.distance + 1), [np.zeros((2, 0), np.int64)]
    band = np.asarray(rows["band"])
    for number in np.unique(band).tolist():
        mine = distinct(rows.filter(pa.array(band == number)).select(NODE.names))
        phash, node = np.asarray(mine["phash"]), np.asarray(mine["node"])
        low, high = close_pairs(phash, limits.distance, masks[number])
        new = ~_agree(phash[low] ^ phash[high], masks[:number])
        low, high = low[new], high[new]
        scope = np.asarray(mine["scope"])
        close = alike(mine, low, mine, high, limits) & (scope[low] == scope[high])
        found.append(node[np.stack([low[close], high[close]])])
    ends = np.concatenate(found, axis=1)
    return ends[0], ends[1]


def _agree(differences: NDArray[np.uint64], masks: list[int]) -> NDArray[np.bool_]:
    """Which pairs agree in an earlier block too, whose partition finds them as well."""
    earlier = np.array(masks, np.uint64)
    found: NDArray[np.bool_] = ((differences[:, None] & earlier) == 0).any(axis=1)
    return found
