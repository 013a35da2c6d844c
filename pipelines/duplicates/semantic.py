"""Pictures that mean the same: links between documents whose pictures' embeddings are near.

All embeddings are never in one place. A job makes centres of clusters from a sample of bounded
size, chosen by the pictures' hashes; each part then sends its embeddings, a kilobyte each, to
the partitions of their clusters, where all of a cluster are compared. A cluster of which the sample
says that it would be large is divided beforehand, and one that is large nonetheless is compared in
pieces, in the order of closeness to its middle. Two pictures near the border of two clusters, or of
two pieces, are not compared: what is found has to be near, but not all that is near is found.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.semantic import Vectors, centres, close_pairs, divided, nearest, whole
from pipelines.config.steps import Semantic
from pipelines.duplicates import clusters
from pipelines.duplicates.clusters import Build
from pipelines.duplicates.keys import salts
from pipelines.stage import Pieces, Place, scatter
from shards import ledger
from shards.ledger import part_name
from shards.storage import Location, exists, read_table, write_table

LARGEST = 20_000  # pictures of a cluster that are all compared with each other
CENTRES = "centres/centres.parquet"

Group = tuple[int, Iterable[pa.Table]]


def next_job(place: Place, options: Semantic) -> Build | None:
    """The job that makes the centres of clusters; None when they are there."""
    if exists(_file(place)):
        return None
    documents = ledger.read_counts(place.inputs[0]).kept.get("document", 0)
    return partial(_build, place=place, options=options, documents=documents)


def _file(place: Place) -> Location:
    return place.out / CENTRES


def _build(pipeline: beam.Pipeline, place: Place, options: Semantic, documents: int) -> Any:
    share = min(1.0, options.sample / max(1, documents))
    start = pipeline | "to sample" >> beam.Create(range(place.parts), reshuffle=False)
    sampled = (
        start
        | "to sample spread" >> beam.Reshuffle()
        | "sample" >> beam.FlatMap(_sample, place, share)
    )
    together = sampled | "together" >> beam.GroupByKey()
    return together | "centres" >> beam.Map(_keep_centres, place, options, documents)


def _sample(part: int, place: Place, share: float) -> Pieces:
    """The embeddings whose picture's hash is below a share of all that there can be."""
    with place.clock():
        found = _first_embeddings(part, place, None)
        least = np.asarray(found["name"]) < share * 2.0**64
        table = found.filter(pa.array(least)).select(["name", "embedding"])
        return place.sent([(0, table)])


def _keep_centres(group: Group, place: Place, options: Semantic, documents: int) -> int:
    with place.clock():
        rows = pa.concat_tables(group[1]).combine_chunks()
        _, first = np.unique(np.asarray(rows["name"]), return_index=True)
        sample = vectors(rows.take(pa.array(first[: options.sample])))
        most = max(2, LARGEST * len(sample) // max(1, documents))
        found = divided(sample, centres(sample, options.clusters), most)
        values = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), sample.shape[1])
        write_table(_file(place), pa.table({"embedding": values}))
    return group[0]


def vectors(table: pa.Table) -> Vectors:
    """The embeddings of a table as whole numbers."""
    return whole(_matrix(table))


def _matrix(table: pa.Table) -> NDArray[np.floating]:
    column = table["embedding"].combine_chunks()
    values: NDArray[np.floating] = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), column.type.list_size)


def _first_embeddings(part: int, place: Place, scope: str | None) -> pa.Table:
    """Of each picture that a document of the part shows first: its hash, a document, embedding.

    With a `scope`, of which a hash is given too, one document of each.
    """
    documents = place.read(part)
    images = [
        next((part["image"] for part in parts if part["image"]), None)
        for parts in documents["parts"].to_pylist()
    ]
    within = salts(documents, scope) if scope else np.zeros(len(documents), np.uint64)
    known = read_table(place.lookups[-1] / "embeddings" / f"{part_name(part)}.parquet")
    at = pc.index_in(pa.array(images, pa.string()), known["sha256"].combine_chunks())
    each = np.stack([np.asarray(at.fill_null(-1)).astype(np.int64), within.view(np.int64)])
    (shown, _), first = np.unique(each, axis=1, return_index=True)
    shown, first = shown[shown >= 0], first[shown >= 0]
    rows = known.take(pa.array(shown))
    names = [int(each[:16], 16) for each in rows["sha256"].to_pylist()]
    columns = {
        "name": pa.array(names, pa.uint64()),
        "node": (part << 32) + first,
        "scope": within[first],
        "embedding": rows["embedding"],
    }
    return pa.table(columns)


def embedded(part: int, place: Place, scope: str | None) -> Pieces:
    """The embeddings of a part, to the partitions of their clusters."""
    with place.clock():
        found = _first_embeddings(part, place, scope)
        middle = _matrix(read_table(_file(place))).astype(np.float32)
        own = nearest(vectors(found), middle)
        table = found.add_column(0, "cluster", pa.array(own, pa.int32()))
        return place.sent(scatter(table, clusters.share(own, place)))


def linked(members: Any, place: Place, options: Semantic) -> Any:
    """From embeddings by cluster to links, by the partition of each end."""
    grouped = members | "by meaning" >> beam.GroupByKey()
    return grouped | "mean alike" >> beam.FlatMap(_compare, place, options.threshold)


def _compare(group: Group, place: Place, threshold: float) -> Pieces:
    with place.clock():
        rows = pa.concat_tables(group[1]).combine_chunks()
        order = [("cluster", "ascending"), ("name", "ascending"), ("node", "ascending")]
        rows = rows.sort_by(order)
        _, starts = np.unique(np.asarray(rows["cluster"]), return_index=True)
        ends = np.append(starts[1:], rows.num_rows)
        found = [near(rows.slice(a, b - a), threshold) for a, b in zip(starts, ends, strict=True)]
        return clusters.both_ways(pa.concat_tables(found), place)


def near(cluster: pa.Table, threshold: float) -> pa.Table:
    """A forest of the documents of one cluster whose pictures are near."""
    node, scope, points = (
        np.asarray(cluster["node"]),
        np.asarray(cluster["scope"]),
        vectors(cluster),
    )
    middle = whole(points.sum(axis=0, dtype=np.float64)[None])
    order = np.argsort(-(points @ middle.T)[:, 0], kind="stable")
    found = [clusters.EDGE.empty_table()]
    for start in range(0, len(order), LARGEST):
        some = order[start : start + LARGEST]
        low, high = (some[ends] for ends in close_pairs(points[some], threshold))
        same = scope[low] == scope[high]
        found.append(clusters.forest(node[low[same]], node[high[same]]))
    return pa.concat_tables(found)
