"""The step that finds pictures of evaluation sets in documents, and takes out or reports these.

The pictures of the sets are hashed by a job of its own, some files a task, and left beside the
stage's output as a small table: 45 bytes a picture and its name, which every worker reads once. A
document's picture is one of them if its bytes are, or if it looks alike (`filters.looks`).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.reading import ConfigError
from filters.hamming import distances, matches
from filters.looks import LOOK, Limits, alike, looks
from pipelines.config.sources import expand
from pipelines.config.steps import DecontaminateImages
from pipelines.duplicates.clusters import Build
from pipelines.duplicates.decontaminate import set_names
from pipelines.duplicates.looks import limits
from pipelines.images import drop_images, image_rows, read_index
from pipelines.stage import Part, Place, Stage, write_documents
from shards import ledger, schema
from shards.images import MEMBER_EXTENSIONS, ImageRejectedError, adopt_tar, inspect_image
from shards.ledger import part_name
from shards.storage import (
    Location,
    location,
    matching,
    names,
    open_parquet,
    read_bytes,
    read_table,
    write_table,
)
from shards.stores.options import StorageOptions

KEY = "decontaminate_images.files"
PICTURES = frozenset(f".{extension}" for extension in MEMBER_EXTENSIONS)
TABLES = (".tar", ".parquet")
KNOWN = pa.schema([("name", pa.string()), ("sha256", pa.string()), *LOOK])
EVALUATION = "evaluation"  # the folder of tables of `KNOWN`
FILES = 256  # that a task hashes

CONTAMINATED = "image_contaminated"

Named = tuple[tuple[str, Location], ...]


def decontaminate_images_stage(
    name: str, source: Stage, fetched: Stage, options: DecontaminateImages, storage: StorageOptions
) -> Stage:
    """Look for pictures of evaluation sets among those of every document.

    Raises:
        ConfigError: there is no picture where the recipe says, or what cannot be one.
    """
    files = [file for pattern in options.files for file in evaluation_files(pattern, storage)]
    named = tuple(zip(set_names(files), files, strict=True))
    return Stage(
        name,
        partial(_decontaminate, options=options),
        options.model_dump(),
        (
            "pipelines.duplicates.decontaminate_images",
            "pipelines.images",
            "pipelines.duplicates.looks",
        ),
        inputs=(source.name,),
        lookups=(fetched.name,),
        files=tuple(files),
        before=partial(next_job, named=named),
    )


def evaluation_files(pattern: str, storage: StorageOptions) -> list[Location]:
    """The files of a path, a pattern or a folder; of a folder those that a suffix says are some."""
    place = location(pattern, storage)
    if place.is_dir() if isinstance(place, Path) else pattern.endswith("/"):
        found = [file for file in matching(place / "**/*") if _is_known(file)]
        if not found:
            raise ConfigError(f"{KEY}: no picture, .tar or .parquet is in {pattern!r}")
        return found
    files = expand([pattern], KEY, storage)
    if unknown := [file for file in files if not _is_known(file)]:
        allowed = ", ".join(sorted(PICTURES)) + ", .tar and .parquet"
        raise ConfigError(f"{KEY}: {unknown[0]} has none of the suffixes {allowed}")
    return files


def _is_known(file: Location) -> bool:
    return PurePosixPath(file.name).suffix.lower() in PICTURES.union(TABLES)


# The evaluation sets


def next_job(place: Place, named: Named) -> Build | None:
    """The job that hashes what is not hashed yet; None when all is."""
    tasks = range(0, len(named), FILES)
    done = set(names(place.out / EVALUATION))
    left = [i for i in range(len(tasks)) if f"{part_name(i)}.parquet" not in done]
    return partial(_hash_all, place=place, named=named, left=left) if left else None


def _hash_all(pipeline: beam.Pipeline, place: Place, named: Named, left: Sequence[int]) -> Any:
    tasks = pipeline | "evaluation sets" >> beam.Create(left, reshuffle=False)
    return tasks | "spread" >> beam.Reshuffle() | "hash" >> beam.Map(_hash, place, named)


def _hash(task: int, place: Place, named: Named) -> int:
    with place.clock():
        mine = named[task * FILES : (task + 1) * FILES]
        rows = [row for name, file in mine for row in evaluation_rows(name, file)]
        table = pa.Table.from_pylist(rows, schema=schema.IMAGE)
        known = pa.table([table["url"], table["sha256"], *looks(table).columns], schema=KNOWN)
        write_table(place.out / EVALUATION / f"{part_name(task)}.parquet", known)
    return task


def evaluation_rows(name: str, file: Location) -> Iterator[dict[str, Any]]:
    """Rows of `schema.IMAGE` of a file's pictures, whose `url` is how they are named.

    A .tar holds pictures as members, a .parquet as columns of bytes or, as data sets are
    published, of structs with a field `bytes`.

    Raises:
        ValueError: something is no picture that can be read; names the file.
    """
    suffix = PurePosixPath(file.name).suffix.lower()
    if suffix == ".tar":
        found = [(row["url"], row) for row in adopt_tar(file, name).to_pylist()]
    elif suffix == ".parquet":
        found = [(where, _inspected(body)) for where, body in _parquet_bodies(name, file)]
    else:
        found = [(name, _inspected(read_bytes(file)))]
    for where, row in found:
        if row.get("reason"):
            raise ValueError(
                f"{where} of {file} is no picture that can be read ({row['reason']}): "
                "repair it, or leave it out of decontaminate_images.files"
            )
        yield {**row, "url": where}


def _inspected(body: bytes) -> dict[str, Any]:
    try:
        return inspect_image(body)
    except ImageRejectedError as rejected:
        return {"reason": str(rejected)}


def _parquet_bodies(name: str, file: Location) -> Iterator[tuple[str, bytes]]:
    with open_parquet(file) as table:
        columns = [field.name for field in table.schema_arrow if _holds_bytes(field.type)]
        if not columns:
            raise ValueError(f"{file} has no column of bytes, and so no pictures")
        row = 0
        for batch in table.iter_batches(batch_size=64, columns=columns):
            for values in batch.to_pylist():
                for column, value in values.items():
                    body = value["bytes"] if isinstance(value, dict) else value
                    if body is not None:
                        yield f"{name}, {column} of row {row}", body
                row += 1


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return "bytes" in [field.name for field in kind]
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


@lru_cache(maxsize=1)
def evaluation_set(out: Location) -> pa.Table:
    """All that the sets hold, by name, read once a process."""
    files = [out / EVALUATION / name for name in sorted(names(out / EVALUATION))]
    return pa.concat_tables(map(read_table, files)).combine_chunks().sort_by("name")


# Documents


def _decontaminate(parts: Any, place: Place, options: DecontaminateImages) -> Any:
    return parts | "decontaminate" >> beam.Map(_decontaminate_part, place, options)


def _decontaminate_part(part: int, place: Place, options: DecontaminateImages) -> int:
    with place.clock():
        if not place.has(part):
            documents, index = place.read(part), read_index(place.lookups[0], part)
            found = contaminated(documents, index, evaluation_set(place.out), limits(options))
            take_out = _reported if options.report_only else drop_images
            result = take_out(documents, *found)
            write_documents(place, part, documents, result, images=True)
    return part


def contaminated(
    documents: pa.Table, index: pa.Table, known: pa.Table, limits: Limits
) -> tuple[list[str | None], list[str | None]]:
    """Reasons and details for each part of each document, end to end, as `drop_images` has them."""
    where, rows = image_rows(documents, index)
    _, parts = schema.flatten_parts(documents)
    reasons, details = np.full((2, len(parts)), None, object)
    for at, detail in {**_near(rows, known, limits), **_exact(rows, known)}.items():
        reasons[where[at]], details[where[at]] = CONTAMINATED, detail
    return reasons.tolist(), details.tolist()


def _exact(rows: pa.Table, known: pa.Table) -> dict[int, str]:
    """The rows whose bytes are those of a known picture, and of which one."""
    places = pc.index_in(rows["sha256"], known["sha256"].combine_chunks())
    named = known["name"].take(places).to_pylist()
    return {at: f"{name}: the same bytes" for at, name in enumerate(named) if name is not None}


def _near(rows: pa.Table, known: pa.Table, limits: Limits) -> dict[int, str]:
    """The rows that look like a known picture, and which one is nearest, the first of equals."""
    seen = looks(rows)
    asked, held = np.asarray(seen["phash"]), np.asarray(known["phash"])
    at, to = matches(asked, held, limits.distance)
    close = alike(seen, at, known, to, limits)
    at, to = at[close], to[close]
    bits = distances(asked[at], held[to])
    nearest = np.lexsort((to, bits, at))[::-1]  # of each row the nearest is the last to be set
    names = known["name"].take(pa.array(to)).to_pylist()
    return {int(at[i]): f"{names[i]}: {bits[i]} of 64 bits apart" for i in nearest}


def _reported(documents: pa.Table, reasons: list[str | None], details: list[str | None]) -> Part:
    """All documents as they are, and the ledger's rows of what would go."""
    _, drops = drop_images(documents, reasons, details)
    rows = drops.filter(pc.equal(drops["unit"], "image"))
    kinds = pa.array([ledger.REPORTED] * rows.num_rows, pa.string())
    return documents, schema.with_column(rows, "kind", kinds)
