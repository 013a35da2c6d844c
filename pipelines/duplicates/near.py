"""Duplicates of duplicates: one document is kept of all that keys connect, however indirectly.

Documents that share a key are linked, and linked ones form clusters (see `clusters`). Of a cluster
the document with the best quality score is kept, if they have one; of equals the longest, and of
those the one with the smallest id. What goes through shuffles is keys, places and ids.

A document is known in shuffles by its place: the part in the upper half of 64 bits, the row in the
lower. The survivors of runs that a corpus is deduped against have the places behind its own parts,
and are kept whatever else there is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.looks import SCOPED
from pipelines.config.steps import Dedupe
from pipelines.duplicates import clusters, keys, looks, semantic
from pipelines.duplicates.alike import NAMED, by_band, compared, names
from pipelines.duplicates.clusters import Build, Nodes
from pipelines.images import read_index
from pipelines.stage import Pieces, Place, by_part, partitions, scatter, write_documents
from shards import ledger
from shards.ledger import part_name
from shards.storage import Location, exists, read_table, remove_tree, write_table

KEY = pa.schema([("key", pa.uint64()), ("node", pa.int64()), ("kind", pa.int8())])
LINK = pa.schema([*clusters.EDGE, ("kind", pa.int8())])
MEMBER = pa.schema([("node", pa.int64()), ("cluster", pa.int64()), ("kind", pa.int8())])
CANDIDATE = pa.schema(
    [
        *MEMBER,
        ("foreign", pa.bool_()),
        ("rank", pa.int64()),
        ("keeper", pa.string()),  # the document's own id; as a verdict, that of the one kept
    ]
)
BEST = [
    ("cluster", "ascending"),
    ("foreign", "descending"),
    ("rank", "ascending"),
    ("keeper", "ascending"),
    ("node", "ascending"),
]
KEPT = "keys"  # the folder of the survivors' records, which other runs read
RECORDS, KINDS = "records", "kinds"  # what is needed until the stage is done

Group = tuple[int, Iterable[pa.Table]]
Piece = tuple[int, pa.Table]


@dataclass(frozen=True)
class Finished:
    """A finished dedupe of another run: its folder, and how many parts it has."""

    run: str
    folder: Location
    parts: int


@dataclass(frozen=True)
class Job:
    """What every step of a dedupe is given."""

    options: Dedupe
    against: tuple[Finished, ...]


def next_job(place: Place, job: Job) -> Build | None:
    """The job that has to run before duplicates are known; None when they are."""
    if (asked := job.options.semantic) and (build := semantic.next_job(place, asked)):
        return build
    return clusters.next_round(place, partial(_links, place=place, job=job))


def drop_duplicates(parts: Any, place: Place, job: Job) -> Any:
    """Write the documents that are kept of every part, with their keys."""
    count = partitions(place)
    found = (
        parts
        | "partitions" >> beam.Filter(_is_below, count)
        | "members" >> beam.FlatMap(_members, place)
        | "to their parts" >> beam.GroupByKey()
        | "describe" >> beam.FlatMap(_describe, place, job)
        | "by cluster" >> beam.GroupByKey()
        | "keepers" >> beam.FlatMap(_lost, place)
    )
    return by_part(parts, found, CANDIDATE) | "write" >> beam.Map(_write, place, job)


def forget(place: Place) -> None:
    """Remove what was needed to find duplicates."""
    clusters.forget_rounds(place)
    for name in (RECORDS, KINDS, semantic.CENTRES.split("/")[0]):
        remove_tree(place.out / name)


# Links


def _links(parts: Any, place: Place, job: Job) -> Any:
    """From the numbers of parts to the links between their documents."""
    options, reasons = job.options, keys.reasons(job.options)
    kept = parts | "records" >> beam.Map(_keep_records, place, job)
    every = (kept, *_others(kept.pipeline, place, job)) | "all records" >> beam.Flatten()
    linked = [_shared(kept, every, place, job)]
    if options.near and options.near.verify is not None:
        bands = kept | "bands" >> beam.FlatMap(_bands, place, job)
        alike = compared(bands, place, options.near)
        linked.append(alike | "near" >> beam.Map(_of_kind, reasons.index(keys.NEAR)))
    if options.near_image:
        shown = every | "looks" >> beam.FlatMap(_looks, place, job)
        alike = looks.linked(shown, place, options.near_image)
        linked.append(alike | "near images" >> beam.Map(_of_kind, reasons.index(keys.NEAR_IMAGE)))
    if options.semantic:
        members = kept | "embeddings" >> beam.FlatMap(semantic.embedded, place, options.scope)
        alike = semantic.linked(members, place, options.semantic)
        linked.append(alike | "meanings" >> beam.Map(_of_kind, reasons.index(keys.SEMANTIC)))
    together = linked | "all links" >> beam.Flatten() | "by end" >> beam.GroupByKey()
    return together | "first edges" >> beam.FlatMap(_keep_kinds, place)


def _others(pipeline: beam.Pipeline, place: Place, job: Job) -> list[Any]:
    """The numbers of what other runs have kept, which go on from those of the parts."""
    known = sum(each.parts for each in job.against)
    if not known:
        return []
    numbers = range(place.parts, place.parts + known)
    other = pipeline | "other runs" >> beam.Create(numbers, reshuffle=False)
    return [other | "other runs spread" >> beam.Reshuffle()]


def _shared(kept: Any, every: Any, place: Place, job: Job) -> Any:
    """The links of keys that have to be equal, and no more."""
    inside = kept | "links of a part" >> beam.FlatMap(_inside, place, job)
    sent = every | "keys" >> beam.FlatMap(_keys, place, job)
    across = sent | "by key" >> beam.GroupByKey() | "links" >> beam.FlatMap(_across, place)
    return (inside, across) | "shared" >> beam.Flatten()


def _of_kind(piece: Piece, kind: int) -> Piece:
    partition, edges = piece
    kinds = pa.array([kind] * edges.num_rows, pa.int8())
    return partition, pa.table([*edges.columns, kinds], schema=LINK)


def _bands(part: int, place: Place, job: Job) -> Pieces:
    """The band keys of a part's documents, to the partitions of the keys."""
    with place.clock():
        records = _records(part, place)
        near = keys.kinds(job.options) == keys.reasons(job.options).index(keys.NEAR)
        values = keys.matrix(records)[:, near]
        there = values.ravel() != keys.NO_KEY
        every = np.repeat(nodes(part, len(values)), values.shape[1])
        named = np.repeat(names(records["id"]), values.shape[1])
        columns = [values.ravel()[there], named[there], every[there]]
        return by_band(pa.table(columns, schema=NAMED), place)


def _keep_records(part: int, place: Place, job: Job) -> int:
    path = place.out / RECORDS / f"{part_name(part)}.parquet"
    with place.clock():
        if not exists(path):
            index = read_index(place.lookups[0], part) if job.options.near_image else None
            write_table(path, keys.records(place.read(part), job.options, index))
    return part


def _looks(number: int, place: Place, job: Job) -> Pieces:
    """The looks of some records, to the partitions of their blocks."""
    assert job.options.near_image, "only then are there looks"
    with place.clock():
        table = _known(number, place, job)[1]
        seen, mine = table.select(SCOPED.names), nodes(number, len(table))
        return looks.by_block(seen, mine, place, job.options.near_image.distance)


def _records(part: int, place: Place) -> pa.Table:
    return read_table(place.out / RECORDS / f"{part_name(part)}.parquet")


def _known(number: int, place: Place, job: Job) -> tuple[str | None, pa.Table]:
    """Records of a part; behind the parts those that other runs have kept, and which run."""
    if number < place.parts:
        return None, _records(number, place)
    number -= place.parts
    for finished in job.against:
        if number < finished.parts:
            return finished.run, _kept(finished.folder, number)
        number -= finished.parts
    raise IndexError(number)


def _kept(folder: Location, part: int) -> pa.Table:
    return read_table(folder / KEPT / f"{part_name(part)}.parquet")


def nodes(part: int, count: int) -> Nodes:
    """The places of a part's documents."""
    return (part << 32) + np.arange(count, dtype=np.int64)


def _rows(table: pa.Table, part: int, options: Dedupe) -> pa.Table:
    """A row of `KEY` for every key of a part's records that makes duplicates, by key and place."""
    values = keys.matrix(table)
    node = np.repeat(nodes(part, len(values)), values.shape[1])
    kind = np.tile(keys.kinds(options), len(values))
    key = values.reshape(-1)
    there = key != keys.NO_KEY
    if options.near and options.near.verify is not None:
        there &= kind != keys.reasons(options).index(keys.NEAR)  # sharing a band is not enough
    key, node, kind = key[there], node[there], kind[there]
    order = np.lexsort((node, key))
    return pa.table([key[order], node[order], kind[order]], schema=KEY)


def firsts(key: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each of the sorted keys the position of the first one equal to it."""
    new = np.ones(len(key), bool)
    new[1:] = key[1:] != key[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))


def _keys(number: int, place: Place, job: Job) -> Pieces:
    """The first row of each key of some records, to the partition of the key."""
    with place.clock():
        table = _known(number, place, job)[1]
        return _to_partitions(_rows(table, number, job.options), place)


def _to_partitions(rows: pa.Table, place: Place) -> Pieces:
    key = np.asarray(rows["key"])
    first = firsts(key) == np.arange(len(key))
    targets = (key[first] % np.uint64(partitions(place))).astype(np.int64)
    return place.sent(scatter(rows.filter(pa.array(first)), targets))


def _inside(part: int, place: Place, job: Job) -> Pieces:
    """The links between documents of one part, so that a key need send but one of them."""
    with place.clock():
        return _linked(_rows(_records(part, place), part, job.options), place)


def _across(group: Group, place: Place) -> Pieces:
    with place.clock():
        rows = pa.concat_tables(group[1]).combine_chunks()
        return _linked(rows.sort_by([("key", "ascending"), ("node", "ascending")]), place)


def _linked(rows: pa.Table, place: Place) -> Pieces:
    """Each document of a key to the key's first one, and that one to each, by partition."""
    key, node, kind = (np.asarray(rows[name]) for name in KEY.names)
    first = firsts(key)
    linked = first != np.arange(len(first))
    node, other, kind = node[linked], node[first][linked], kind[linked]
    ends, others = np.concatenate([node, other]), np.concatenate([other, node])
    table = pa.table([ends, others, np.concatenate([kind, kind])], schema=LINK)
    return place.sent(scatter(table, clusters.share(ends, place)))


def _keep_kinds(group: Group, place: Place) -> Pieces:
    """Hang the links; the first kind of key that each document shares is kept for its reason."""
    with place.clock():
        links = pa.concat_tables(group[1]).combine_chunks()
        kinds = links.group_by("node").aggregate([("kind", "min")]).sort_by("node")
        path = place.out / KINDS / f"{part_name(group[0])}.parquet"
        write_table(path, kinds.rename_columns(["node", "kind"]))
        return clusters.hang(links, place)


# Keepers


def _is_below(number: int, limit: int) -> bool:
    return number < limit


def _members(number: int, place: Place) -> Pieces:
    """Everyone in a cluster of more than one, to the part that they are in."""
    with place.clock():
        path = place.out / KINDS / f"{part_name(number)}.parquet"
        if not exists(path):  # none of its documents has a duplicate
            return []
        known, links = read_table(path), clusters.settled_links(place, number)
        node = np.asarray(known["node"])
        cluster = node.copy()
        cluster[np.searchsorted(node, np.asarray(links["node"]))] = np.asarray(links["other"])
        rows = pa.table([known["node"], cluster, known["kind"]], schema=MEMBER)
        return place.sent(scatter(rows, node >> 32))


def _describe(group: Group, place: Place, job: Job) -> Pieces:
    """What decides which of a cluster is kept, to the partition of the cluster."""
    part, tables = group
    with place.clock():
        rows = pa.concat_tables(tables).combine_chunks()
        foreign, known = part >= place.parts, _named(part, place, job)
        taken = known.take(pa.array(np.asarray(rows["node"]) & clusters.ROW))
        columns = [[foreign] * rows.num_rows, taken["rank"], taken["id"]]
        table = pa.table([*rows.columns, *columns], schema=CANDIDATE)
        return place.sent(scatter(table, clusters.share(np.asarray(rows["cluster"]), place)))


def _named(part: int, place: Place, job: Job) -> pa.Table:
    """Records of a part; those of other runs say which one."""
    run, known = _known(part, place, job)
    if run is None:
        return known
    return known.set_column(0, "id", pc.binary_join_element_wise(known["id"], run, " of "))


def _lost(group: Group, place: Place) -> Pieces:
    """All of each cluster but the best, with the id of that one, to their parts."""
    with place.clock():
        rows = pa.concat_tables(group[1]).combine_chunks().sort_by(BEST)
        first = firsts(np.asarray(rows["cluster"]).astype(np.uint64))
        keeper = rows["keeper"].take(pa.array(first))
        rows = rows.set_column(rows.num_columns - 1, "keeper", keeper)
        lost = (first != np.arange(len(first))) & ~np.asarray(rows["foreign"])
        rows = rows.filter(pa.array(lost))
        return place.sent(scatter(rows, np.asarray(rows["node"]) >> 32))


def _write(group: Group, place: Place, job: Job) -> int:
    part, tables = group
    with place.clock():
        if not place.has(part):
            documents, records = place.read(part), _records(part, place)
            reasons, keepers = _verdicts(pa.concat_tables(tables), documents.num_rows, job)
            kept = pa.array([reason is None for reason in reasons], pa.bool_())
            keep(records.filter(kept), part, place)
            drops = ledger.drop_rows(documents, reasons, details=keepers)
            write_documents(place, part, documents, (documents.filter(kept), drops))
    return part


def keep(records: pa.Table, part: int, place: Place) -> None:
    """Write down the survivors of a part for runs that are deduped against this one."""
    write_table(place.out / KEPT / f"{part_name(part)}.parquet", records)


def _verdicts(lost: pa.Table, count: int, job: Job) -> tuple[list[str | None], list[str | None]]:
    """The reason and the keeper of each row of a part, None for those that are kept."""
    named = keys.reasons(job.options)
    reasons: list[str | None] = [None] * count
    keepers: list[str | None] = [None] * count
    for row in lost.select(["node", "kind", "keeper"]).to_pylist():
        at = row["node"] & clusters.ROW
        reasons[at], keepers[at] = named[row["kind"]], row["keeper"]
    return reasons, keepers
