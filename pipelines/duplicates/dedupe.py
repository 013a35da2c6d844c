"""Duplicates, found by keys alone: what goes through the shuffle is a key, a rank and a row number.

Every record sends one row per key to the partition of that key. In a partition, records with
equal keys are put in a fixed order (longest first, then smallest id, then place) and all but the
first are duplicates of it. The verdicts go back to the parts that the records came from. No step
needs all keys in one place, and nothing depends on the order in which rows arrive.

That is all there is to do where a record has one key, and takes no job of its own. With several a
duplicate's duplicate may be like neither, which `pipelines.duplicates.near` follows up.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.reading import ConfigError
from pipelines.config.steps import Dedupe
from pipelines.duplicates import keys, near
from pipelines.stage import (
    Part,
    Pieces,
    Place,
    Stage,
    by_part,
    partitions,
    scatter,
    write_documents,
)
from shards import ledger, schema
from shards.storage import location
from shards.stores.options import StorageOptions

KEY = pa.schema(
    [
        ("key", pa.string()),
        ("rank", pa.int64()),  # smaller is better
        ("id", pa.string()),
        ("part", pa.int32()),
        ("row", pa.int32()),
    ]
)
LOSER = pa.schema([*KEY, ("keeper", pa.string())])
ORDER = ["key", "rank", "id", "part", "row"]

MODULES = tuple(
    f"pipelines.duplicates.{name}"
    for name in ("dedupe", "near", "alike", "looks", "semantic", "clusters", "keys")
)


def dedupe_stage(
    name: str,
    source: Stage,
    options: Dedupe,
    storage: StorageOptions | None = None,
    *,
    fetched: Stage | None = None,
    embedded: Stage | None = None,
) -> Stage:
    """Keep one document of every group of duplicates.

    Args:
        name: of the stage.
        source: whose documents are deduped.
        options: what makes duplicates.
        storage: where the runs to dedupe against are.
        fetched: the stage that has the pictures' hashes.
        embedded: the stage that has their embeddings.

    Raises:
        ConfigError: a run to dedupe against has no such stage, or made its keys otherwise; there
            are no embeddings.
    """
    if options.semantic and embedded is None:
        raise ConfigError(
            "dedupe.semantic compares embeddings: keep some, as clip.embeddings: true"
        )
    known = [_finished(name, run, options, storage) for run in options.against]
    job = near.Job(options, tuple(known))
    alike = options.near or options.near_image or options.semantic
    linked = bool(alike or options.against or len(options.exact) != 1)
    looked = [fetched] * bool(options.near_image) + [embedded] * bool(options.semantic)
    return Stage(
        name,
        partial(near.drop_duplicates, job=job) if linked else partial(_dedupe, options=options),
        options.model_dump(),
        MODULES,
        inputs=(source.name,),
        lookups=tuple(stage.name for stage in looked if stage),
        files=tuple(each.folder.parent / ledger.STAGE_FILE for each in known),
        before=partial(near.next_job, job=job) if linked else None,
        finish=near.forget if linked else None,
    )


def _finished(
    name: str, run: str, options: Dedupe, storage: StorageOptions | None
) -> near.Finished:
    """The same stage of a finished run, whose survivors' keys it has kept."""
    home = location(run, storage) / name
    said = ledger.about(home)
    if said is None or "keys" not in said["holds"]:
        raise ConfigError(f"dedupe.against: {run} has no finished stage {name}")
    theirs, ours = _making(said["pieces"]["config"]), _making(options.model_dump())
    for key, value in ours.items():
        if theirs[key] != value:
            raise ConfigError(
                f"dedupe.against: {run} made its keys with {key} = {theirs[key]}, "
                f"but this recipe has {value}"
            )
    return near.Finished(run, home / said["folder"], said["parts"])


def _making(config: dict[str, Any]) -> dict[str, Any]:
    """What keys depend on."""
    bands = config["near"] and {k: v for k, v in config["near"].items() if k != "verify"}
    pictures = config["near_image"] is not None  # at whatever distance
    return {
        "exact": config["exact"],
        "near": bands,
        "near_image": pictures,
        "scope": config["scope"],
    }


def _dedupe(parts: Any, place: Place, options: Dedupe) -> Any:
    found = (
        parts
        | "keys" >> beam.FlatMap(_split_keys, place, options)
        | "by key" >> beam.GroupByKey()
        | "judge" >> beam.FlatMap(_judge, place)
    )
    return by_part(parts, found, LOSER) | "write" >> beam.Map(_write, place, options)


def _split_keys(part: int, place: Place, options: Dedupe) -> Pieces:
    """The best record of each key, to the partition of the key; the others have lost already.

    So a key sends one row a part, however often it occurs. Losers go to partitions of their own,
    one a part, and pass through.
    """
    with place.clock():
        records = keys.records(place.read(part), options)
        table = document_keys(records, part).sort_by(_ascending(ORDER))
        lost = _runs(table["key"]) != np.arange(table.num_rows)
        rows = _with_keepers(table)
    count = partitions(place)
    targets = np.where(lost, count + part, _hashes(table) % count)
    return place.sent(scatter(rows, targets))


def _hashes(table: pa.Table) -> NDArray[np.int64]:
    found = table["key"].to_pylist()
    return np.array([int(schema.digest(key)[:8], 16) for key in found], np.int64)


def _judge(group: tuple[int, Iterable[pa.Table]], place: Place) -> Pieces:
    partition, tables = group
    rows = pa.concat_tables(tables).combine_chunks()
    if partition < partitions(place):
        with place.clock():
            rows = losers(rows.select(KEY.names).sort_by(_ascending(ORDER)))
    return place.sent(scatter(rows, rows["part"]))


def _ascending(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, "ascending") for name in names]


def _write(group: tuple[int, Iterable[pa.Table]], place: Place, options: Dedupe) -> int:
    """Write the documents of a part that are kept, with their keys."""
    part, verdicts = group
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            lost = _last_word(pa.concat_tables(verdicts).combine_chunks())
            result = drop_losers(documents, lost, keys.reasons(options)[0])
            near.keep(keys.records(result[0], options), part, place)
            write_documents(place, part, documents, result)
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


def document_keys(records: pa.Table, part: int) -> pa.Table:
    """One row for every record that has a key, of which there is one kind."""
    n = records.num_rows
    found = keys.matrix(records).reshape(-1)
    columns = [
        pa.array(found).cast(pa.string()),
        records["rank"],
        records["id"],
        pa.array([part] * n, pa.int32()),
        pa.array(range(n), pa.int32()),
    ]
    return pa.table(columns, schema=KEY).filter(pa.array(found != keys.NO_KEY))


def drop_losers(documents: pa.Table, verdicts: pa.Table, reason: str) -> Part:
    """Drop the documents that lost, with the ids of those that are kept in their stead."""
    keepers: list[str | None] = [None] * documents.num_rows
    for row, keeper in zip(
        *(verdicts[name].to_pylist() for name in ("row", "keeper")), strict=True
    ):
        keepers[row] = keeper
    reasons = [None if keeper is None else reason for keeper in keepers]
    keep = pa.array([reason is None for reason in reasons], pa.bool_())
    return documents.filter(keep), ledger.drop_rows(documents, reasons, details=keepers)
