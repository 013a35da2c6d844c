"""The connected components of any graph, by rounds through shuffles until nothing changes.

Nodes are 64-bit numbers, edges rows of two. No worker holds more of the graph than the edges of
its share of the nodes. A round is a large-star and a small-star (Kiveris et al. 2014,
"Connected components in MapReduce and beyond", section 3): each node hangs its neighbours on the
least of them, first those above itself, then those below. Edges are never more than they were,
and a chain of n nodes takes O(log n) rounds. When every node is either the least of its component
or hangs on nothing but that, the graph is a forest of stars and has settled.

A Beam graph cannot loop, so a job unrolls a few rounds and writes down the edges that are left
and whether they have settled; if they have not, another job goes on from there.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.stage import Pieces, Place, partitions, scatter
from shards.ledger import part_name
from shards.storage import (
    Location,
    in_parallel,
    names,
    read_json,
    read_table,
    remove_tree,
    write_json,
    write_table,
)

ROW = (1 << 32) - 1  # of a document's place, the half that is the row; the other is the part
EDGE = pa.schema([("node", pa.int64()), ("other", pa.int64())])

SETTLED = "settled.json"  # names the folder of the last round's edges
UNROLLED = 2  # rounds of a job; components of a few nodes settle in the first

Nodes = NDArray[np.int64]
Build = Callable[[beam.Pipeline], Any]
Group = tuple[int, Iterable[pa.Table]]


def share(nodes: Nodes, place: Place) -> Nodes:
    """The partition that holds the edges of each node."""
    return (mixed(nodes) % np.uint64(partitions(place))).astype(np.int64)


def mixed(values: NDArray[Any]) -> NDArray[np.uint64]:
    """32 bits that each bit of a 64-bit number has a part in (Fibonacci hashing)."""
    bits = values.astype(np.uint64)
    folded = bits ^ (bits >> np.uint64(32))  # a product has nothing of higher bits in lower ones
    return (folded * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)


def hang(edges: pa.Table, place: Place) -> Pieces:
    """The large-star of some nodes, whose edges these all are, to the partitions of its ends."""
    return _sent(*large_star(edges), place)


def both_ways(edges: pa.Table, place: Place) -> Pieces:
    """Edges as each of their ends sees them, to the partition of that end."""
    node, other = (np.asarray(edges[name]) for name in EDGE.names)
    return _sent(np.concatenate([node, other]), np.concatenate([other, node]), place)


def large_star(edges: pa.Table) -> tuple[Nodes, Nodes]:
    """Each neighbour above a node, and the least of the node and all of its neighbours."""
    node, other, least = _least(edges)
    above = other > node
    return other[above], least[above]


def small_star(edges: pa.Table) -> tuple[Nodes, Nodes]:
    """Nodes whose neighbours here are all below them: each of both, and the least of them."""
    node, other, least = _least(edges)
    ends, to = np.concatenate([node, other]), np.concatenate([least, least])
    return ends[ends != to], to[ends != to]


def unsettled(edges: pa.Table) -> int:
    """How many nodes have a neighbour below them, and others too; `edges` are both ways."""
    node, _, least = _least(edges)
    _, first, degrees = np.unique(node, return_index=True, return_counts=True)
    return int(((least < node)[first] & (degrees > 1)).sum())


def forest(node: Nodes, other: Nodes) -> pa.Table:
    """The edges of a graph that fits into memory, made as few as connect the same nodes."""
    edges = _both(node, other)
    while unsettled(edges):
        edges = _both(*small_star(pa.table(list(large_star(edges)), schema=EDGE)))
    node, other, _ = _least(edges)
    return pa.table([node[other < node], other[other < node]], schema=EDGE)


def _both(node: Nodes, other: Nodes) -> pa.Table:
    ends = np.concatenate([node, other]), np.concatenate([other, node])
    return pa.table(list(ends), schema=EDGE)


def _least(edges: pa.Table) -> tuple[Nodes, Nodes, Nodes]:
    """Distinct edges by node, with the least of each node and its neighbours."""
    node, other = (np.asarray(edges[name]) for name in EDGE.names)
    order = np.lexsort((other, node))
    node, other = node[order], other[order]
    new = np.ones(len(node), bool)
    new[1:] = (node[1:] != node[:-1]) | (other[1:] != other[:-1])
    node, other = node[new], other[new]
    first = np.searchsorted(node, node)
    return node, other, np.minimum(node, other[first])


def _sent(node: Nodes, other: Nodes, place: Place) -> Pieces:
    table = pa.table([node, other], schema=EDGE)
    return place.sent(scatter(table, share(node, place)))


def next_round(place: Place, links: Callable[[Any], Any]) -> Build | None:
    """What has to run next; None when the graph has settled.

    Args:
        place: of the stage; its folder holds what earlier jobs have left.
        links: a Beam graph from the numbers of all parts to the first edges, after `hang`.
    """
    for number in count():
        folder = place.out / f"links-{number}"
        if not _is_whole(folder, place):
            if number == 0:
                return partial(_first, place=place, folder=folder, links=links)
            before = place.out / f"links-{number - 1}"
            return partial(_again, place=place, folder=folder, before=before)
        if _has_settled(folder, place):
            write_json(place.out / SETTLED, folder.name)
            return None
    raise AssertionError("rounds end")


def settled_links(place: Place, number: int) -> pa.Table:
    """Of partition `number` of the nodes, those that hang on another, and the least that is it."""
    folder = place.out / read_json(place.out / SETTLED)
    return read_table(folder / f"{part_name(number)}.parquet")


def forget_rounds(place: Place) -> None:
    """Remove what the rounds have left."""
    for name in names(place.out):
        if name.startswith("links-"):
            remove_tree(place.out / name)


def _is_whole(folder: Location, place: Place) -> bool:
    written = [name for name in names(folder) if name.endswith(".json")]
    return len(written) == partitions(place)


def _has_settled(folder: Location, place: Place) -> bool:
    files = [folder / f"{part_name(number)}.json" for number in range(partitions(place))]
    return not any(said["unsettled"] for said in in_parallel(read_json, files))


def _first(
    pipeline: beam.Pipeline, place: Place, folder: Location, links: Callable[[Any], Any]
) -> Any:
    hung = links(_numbers(pipeline, "parts", place.parts))
    return _rounds(pipeline, hung, place, folder)


def _again(pipeline: beam.Pipeline, place: Place, folder: Location, before: Location) -> Any:
    left = _numbers(pipeline, "partitions", partitions(place))
    edges = left | "left" >> beam.FlatMap(_read, place, before)
    return _rounds(pipeline, _large_stars(edges, place, 0), place, folder)


def _numbers(pipeline: beam.Pipeline, name: str, count: int) -> Any:
    start = pipeline | name >> beam.Create(range(count), reshuffle=False)
    return start | f"{name} spread" >> beam.Reshuffle()


def _rounds(pipeline: beam.Pipeline, hung: Any, place: Place, folder: Location) -> Any:
    """Rounds that begin in their middle, behind a large-star."""
    edges = _small_stars(hung, place, 0)
    for number in range(1, UNROLLED):
        edges = _small_stars(_large_stars(edges, place, number), place, number)
    every = _numbers(pipeline, "every partition", partitions(place)) | beam.Map(_nothing)
    together = (every, edges) | beam.Flatten() | "by node" >> beam.GroupByKey()
    return together | "keep" >> beam.Map(_keep, place, folder)


def _large_stars(edges: Any, place: Place, number: int) -> Any:
    grouped = edges | f"by node {number}" >> beam.GroupByKey()
    return grouped | f"large star {number}" >> beam.FlatMap(_large, place)


def _small_stars(hung: Any, place: Place, number: int) -> Any:
    grouped = hung | f"by larger {number}" >> beam.GroupByKey()
    return grouped | f"small star {number}" >> beam.FlatMap(_small, place)


def _nothing(number: int) -> tuple[int, pa.Table]:
    return number, EDGE.empty_table()


def _joined(group: Group) -> pa.Table:
    return pa.concat_tables(group[1]).combine_chunks()


def _large(group: Group, place: Place) -> Pieces:
    with place.clock():
        return hang(_joined(group), place)


def _small(group: Group, place: Place) -> Pieces:
    with place.clock():
        ends = pa.table(list(small_star(_joined(group))), schema=EDGE)
        return both_ways(ends, place)


def _keep(group: Group, place: Place, folder: Location) -> int:
    """Write down the edges of a partition's nodes, each with its larger end, and if they rest."""
    number = group[0]
    with place.clock():
        edges = _joined(group)
        node, other, _ = _least(edges)
        down = other < node
        left = pa.table([node[down], other[down]], schema=EDGE)
        write_table(folder / f"{part_name(number)}.parquet", left)
        write_json(folder / f"{part_name(number)}.json", {"unsettled": unsettled(edges)})
    return number


def _read(number: int, place: Place, folder: Location) -> Pieces:
    with place.clock():
        return both_ways(read_table(folder / f"{part_name(number)}.parquet"), place)
