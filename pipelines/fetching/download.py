"""The stage that fetches the images of documents into the image store."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config.steps import Download
from pipelines.fetching.batches import (
    Chain,
    Target,
    chains,
    fetch_partition,
    host_of,
    in_order,
    take_over,
)
from pipelines.fetching.fetch import TEMPORARY, FetchOptions
from pipelines.images import drop_images, read_index
from pipelines.stage import Pieces, Place, Stage, by_part, partitions, scatter, write_documents
from shards import schema
from shards.images import Resize
from shards.ledger import part_name
from shards.storage import Location, read_table, write_atomic, write_table

# What is sent to the partition of a host; where there is an earlier output, the columns of
# `schema.IMAGE` besides.
REQUEST = pa.schema([("url", pa.string()), ("part", pa.int32())])

SPARE = "spare"  # the folder of what no document of a part shows
HASH_MISMATCH = "hash_mismatch"  # other bytes than those that the input tells of

# Options that change when an image comes, or whether it comes this time, but not which image.
RUNTIME_ONLY = {
    "backoff_seconds",
    "concurrency",
    "connect_to",
    "held_bytes",
    "max_host_failures",
    "per_host_concurrency",
    "per_host_rate",
    "retries",
    "total_seconds",
}


def download_stage(
    name: str, source: Stage, options: Download, adopting: Stage | None = None
) -> Stage:
    """Fetch every image of the documents of `source` into the image store.

    Those that the stage `adopting` has an index of are passed on, and stay where they are.
    """
    return Stage(
        name,
        partial(download, options=options),
        options.model_dump(exclude=RUNTIME_ONLY),
        (
            "pipelines.fetching.download",
            "pipelines.images",
            "pipelines.fetching.batches",
            "pipelines.fetching.fetch",
            "pipelines.fetching.robots",
            "pipelines.fetching.inflate",
            "pipelines.fetching.addresses",
        ),
        inputs=(source.name,),
        lookups=(adopting.name,) if adopting else (),
        temporary=TEMPORARY,
        selects=True,
    )


def download(parts: Any, place: Place, options: Download) -> Any:
    """Fetch every image once, grouped by host, and give each part of the documents its results.

    Two shuffles of small rows: URLs to the partition of their host, results back to the parts.
    """
    results = (
        parts
        | "ask" >> beam.FlatMap(_requests, place, options.partitions or partitions(place))
        | "by host" >> beam.GroupByKey()
        | "fetch" >> beam.FlatMap(_fetch_partition, place, options)
    )
    return by_part(parts, results, schema.IMAGE) | "write" >> beam.Map(_write_downloaded, place)


def _requests(part: int, place: Place, count: int) -> Pieces:
    _, parts = schema.flatten_parts(place.read(part))
    urls = pc.unique(parts.field("url").drop_null())
    urls = urls.filter(pc.invert(pc.is_in(urls, _adopted(place, part, urls)["url"])))
    hosts = [int(schema.digest(host_of(url))[:8], 16) % count for url in urls.to_pylist()]
    requests = pa.table([urls, pa.array([part] * len(urls), pa.int32())], schema=REQUEST)
    if place.earlier is not None:
        requests = _known(place.earlier, part, urls).append_column("part", requests["part"])
    return place.sent(scatter(requests, hosts))


def _known(earlier: Location, part: int, urls: pa.Array) -> pa.Table:
    """A row of `schema.IMAGE` for each URL: what an earlier output knows of it, else nulls."""
    rows = _all_known(earlier, part)
    found = rows.take(pc.index_in(urls, rows["url"].combine_chunks()))
    return found.set_column(0, schema.IMAGE.field("url"), urls)


def _all_known(earlier: Location, part: int) -> pa.Table:
    """What an earlier output has stored for a part, or was refused for good; nothing adopted."""
    tables = [schema.IMAGE.empty_table()]
    for folder in ("index", SPARE):
        with suppress(FileNotFoundError):  # a part that it did not have
            tables.append(read_table(earlier / folder / f"{part_name(part)}.parquet"))
    rows = pa.concat_tables(tables)
    reasons = rows["reason"].to_pylist()
    refused = pa.array([bool(reason) and reason not in TEMPORARY for reason in reasons], pa.bool_())
    own = pc.fill_null(pc.starts_with(rows["tar"], "store/"), False)
    return rows.filter(pc.or_(refused, own))


def _spare(place: Place, part: int, urls: pa.ChunkedArray) -> None:
    """Keep what an earlier output knows of others than the `urls` of a part: they may come back."""
    if place.earlier is not None:
        known = _all_known(place.earlier, part)
        rest = known.filter(pc.invert(pc.is_in(known["url"], urls.combine_chunks())))
        take_over(rest["tar"], place.earlier, place.out)
        write_table(place.out / SPARE / f"{part_name(part)}.parquet", rest)


def _adopted(place: Place, part: int, urls: pa.Array) -> pa.Table:
    """Rows of `schema.IMAGE` of those pictures of a part that are stored already."""
    if not place.lookups:
        return schema.IMAGE.empty_table()
    index = read_index(place.lookups[0], part)
    return index.filter(pc.is_in(index["url"], urls))


def _fetch_partition(
    group: tuple[int, Iterable[pa.Table]], place: Place, options: Download
) -> Iterator[tuple[int, pa.Table]]:
    partition, tables = group
    requests = pa.concat_tables(tables).combine_chunks()
    urls = pc.unique(requests["url"]).sort()
    order, hosts = in_order(urls)
    urls, batches = urls.take(pa.array(order)), chains(hosts, options.tar_urls)
    target = _target(partition, place, options, requests)
    with place.clock():
        fetch_partition(urls, batches, target, partial(_tell, place, target.name, len(urls)))
    yield from _results(requests, urls, batches, target, place)


def _target(partition: int, place: Place, options: Download, requests: pa.Table) -> Target:
    names = FetchOptions.__dataclass_fields__.keys() & Download.model_fields.keys()
    return Target(
        place.out,
        f"host-{partition:05d}",
        FetchOptions(**{name: getattr(options, name) for name in names}),
        Resize(options.resize.shorter_side, options.resize.quality) if options.resize else None,
        options.tar_bytes,
        schema.IMAGE.empty_table() if place.earlier is None else _told(requests),
        place.earlier,
    )


def _told(requests: pa.Table) -> pa.Table:
    """The rows of those URLs of which something is known, each once."""
    known = requests.filter(pc.or_(requests["sha256"].is_valid(), requests["reason"].is_valid()))
    firsts = pc.index_in(pc.unique(known["url"]), known["url"].combine_chunks())
    return known.take(firsts).select(schema.IMAGE.names)


def _tell(place: Place, name: str, total: int, done: int) -> None:
    """Write "done total" to where the progress bar of a download reads it."""
    write_atomic(place.out / "fetching" / name, f"{done} {total}".encode())


def _results(
    requests: pa.Table, urls: pa.Array, batches: Iterable[Chain], target: Target, place: Place
) -> Iterator[tuple[int, pa.Table]]:
    """The store's rows for each part that asked, a batch at a time."""
    where = np.asarray(pc.index_in(requests["url"], urls))
    order = np.lexsort((np.asarray(requests["part"]), where))
    where, parts = where[order], np.asarray(requests["part"])[order]
    for number, batch in enumerate(batch for chain in batches for batch in chain):
        index = read_table(target.index(number))
        place.count("bytes", pc.sum(index["length"]).as_py() or 0)
        first, last = np.searchsorted(where, [batch.start, batch.stop])
        rows = index.take(pa.array(where[first:last] - batch.start))
        yield from place.sent(scatter(rows, parts[first:last]))


def _write_downloaded(group: tuple[int, Iterable[pa.Table]], place: Place) -> int:
    part, results = group
    if place.has(part):
        return part
    documents = place.read(part)
    _, parts = schema.flatten_parts(documents)
    known = _adopted(place, part, pc.unique(parts.field("url").drop_null()))
    index = pa.concat_tables([*results, known]).sort_by("url")
    write_table(place.out / "index" / f"{part_name(part)}.parquet", index)
    _spare(place, part, index["url"])
    places = pc.index_in(parts.field("url"), index["url"].combine_chunks())
    rows = index.select(["reason", "sha256", "md5"]).combine_chunks().take(places)
    mismatches = _mismatches(parts.field("expected_hash"), rows)
    reasons = pc.if_else(mismatches.is_valid(), HASH_MISMATCH, rows["reason"])
    filled = schema.with_parts(documents, "image", rows["sha256"].combine_chunks())
    checked = schema.with_parts(filled, "expected_hash", pa.nulls(len(parts), pa.string()))
    result = drop_images(checked, reasons.to_pylist(), mismatches.to_pylist())
    write_documents(place, part, documents, result, images=True)
    return part


def _mismatches(expected: pa.Array, rows: pa.Table) -> pa.Array:
    """Which hash came instead of the expected one; null where they agree or one is missing."""
    is_sha256 = pc.equal(pc.utf8_length(expected), 64)  # hex digits
    came = pc.if_else(is_sha256, rows["sha256"], rows["md5"])
    kind = pc.if_else(is_sha256, "sha256", "md5")
    told = pc.binary_join_element_wise("expected ", kind, " ", expected, ", got ", came, "")
    return pc.if_else(pc.not_equal(expected, came), told, None)
