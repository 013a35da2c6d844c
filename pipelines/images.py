"""What the corpora with pictures share: fetching them, filtering them, scoring them.

Image bytes go from the network into the image store and from there into a model; what moves
between workers are URLs, hashes and places in tars.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config.rules import FilterSpec
from pipelines.stage import (
    Part,
    Place,
    Stage,
    judge,
    write_documents,
)
from shards import ledger, schema
from shards.ledger import part_name
from shards.storage import Location, read_table

Reasons = Sequence[str | None]  # one for each part of each document, end to end


def drop_images(documents: pa.Table, reasons: Reasons, details: Reasons | None = None) -> Part:
    """Take out the image parts that have a reason, and the documents that lose all their images.

    A document with a single image is dropped for that image's reason. `details` go into the
    ledger beside the reasons.
    """
    details = details or [None] * len(reasons)
    parents, parts = schema.flatten_parts(documents)
    keep = np.array([reason is None for reason in reasons], dtype=bool)
    owner, is_image = np.asarray(parents), np.asarray(parts.field("text").is_null())
    before = np.bincount(owner[is_image], minlength=documents.num_rows)
    after = np.bincount(owner[is_image & keep], minlength=documents.num_rows)
    lost = np.flatnonzero((before > 0) & (after == 0))
    whole: list[str | None] = [None] * documents.num_rows
    about: list[str | None] = [None] * documents.num_rows
    for row in lost:
        whole[row] = "no_images_left"
        if before[row] == 1:
            only = int(np.flatnonzero((owner == row) & is_image)[0])
            whole[row], about[row] = reasons[only], details[only]
    drops = pa.concat_tables(
        [
            _image_drops(documents, owner, parts, reasons, details),
            ledger.drop_rows(documents, whole, details=about),
        ]
    )
    offsets = np.concatenate(
        [[0], np.bincount(owner[keep], minlength=documents.num_rows).cumsum()]
    ).astype(np.int32)
    kept = pa.ListArray.from_arrays(pa.array(offsets), parts.filter(pa.array(keep)))
    remaining = schema.with_column(documents, "parts", kept)
    stay = pa.array([reason is None for reason in whole], pa.bool_())
    return remaining.filter(stay), drops


def _image_drops(
    documents: pa.Table, owner: Any, parts: pa.StructArray, reasons: Reasons, details: Reasons
) -> pa.Table:
    lost = [i for i, reason in enumerate(reasons) if reason is not None]
    ids = documents["id"].to_pylist()
    shown = parts.take(pa.array(lost, pa.int64())).to_pylist()
    rows = [
        ledger.image_drop_row(ids[owner[i]], part, str(reasons[i]), detail=details[i])
        for i, part in zip(lost, shown, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schema.DROP)


def image_rows(documents: pa.Table, index: pa.Table) -> tuple[list[int], pa.Table]:
    """The image parts of `documents`, as positions among all parts, and their `IMAGE_PART` rows."""
    _, parts = schema.flatten_parts(documents)
    where = np.flatnonzero(np.asarray(parts.field("text").is_null()))
    shown = parts.take(pa.array(where))
    rows = index.take(pc.index_in(shown.field("url"), index["url"].combine_chunks()))
    for name in ("alt", "score"):
        rows = rows.append_column(schema.IMAGE_PART.field(name), shown.field(name))
    if "nsfw" not in rows.column_names:
        rows = rows.append_column("nsfw", pa.nulls(rows.num_rows, pa.float32()))
    return where.tolist(), rows.select(schema.IMAGE_PART.names).cast(schema.IMAGE_PART)


def read_index(download: Location, part: int) -> pa.Table:
    """The rows of the image store for every URL in part `part` of the documents."""
    return read_table(download / "index" / f"{part_name(part)}.parquet")


def set_scores(documents: pa.Table, where: Sequence[int], scores: Sequence[float]) -> pa.Table:
    """`documents` with the similarity of the image parts at `where` filled in."""
    _, parts = schema.flatten_parts(documents)
    column: list[float | None] = [None] * len(parts)
    for i, score in zip(where, scores, strict=True):
        column[i] = float(score)
    return schema.with_parts(documents, "score", pa.array(column, pa.float32()))


# Filters


def image_filter_stage(
    name: str,
    source: Stage,
    fetched: Stage,
    filters: Sequence[FilterSpec],
    scorers: Sequence[Stage] = (),
) -> Stage:
    """Apply image filters in order, with what the image store of `fetched` knows of each image.

    `scorers` are earlier stages that have scored images. What the rules measured of every image is
    kept: all of it is known, and costs nothing.
    """
    return Stage(
        name,
        partial(_filter_images, filters=filters),
        [spec.model_dump() for spec in filters],
        ("pipelines.images", "filters.images"),
        inputs=(source.name,),
        lookups=(fetched.name, *(scorer.name for scorer in scorers)),
        selects=bool(filters),
    )


def _filter_images(parts: Any, place: Place, filters: Sequence[FilterSpec]) -> Any:
    return parts | "filter" >> beam.Map(_filter_part, place, filters)


def _filter_part(part: int, place: Place, filters: Sequence[FilterSpec]) -> int:
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            index = _scored_index(place, part)
            result, measures = filter_images(documents, index, filters)
            write_documents(place, part, documents, result, images=True, measures=measures)
    return part


def _scored_index(place: Place, part: int) -> pa.Table:
    """The index of a part with the scores of the last stage that has scored its images."""
    download, *scorers = place.lookups
    index = read_index(download, part)
    for scorer in scorers[-1:]:
        scores = read_table(scorer / "scores" / f"{part_name(part)}.parquet")
        found = scores["nsfw"].take(pc.index_in(index["url"], scores["url"].combine_chunks()))
        index = index.append_column("nsfw", found)
    return index


def filter_images(
    documents: pa.Table, index: pa.Table, filters: Sequence[FilterSpec]
) -> tuple[Part, pa.Table]:
    """Take out the images that a rule drops, and tell what the rules measured.

    The measures are a row an image part: `id` of the document, `image`, which of its images it
    is, counted from 0, and a column a rule.
    """
    where, rows = image_rows(documents, index)
    parents, parts = schema.flatten_parts(documents)
    owner = np.asarray(parents)[where]
    named = rows.append_column("id", documents["id"].take(pa.array(owner)))
    verdicts = judge(named, filters, measure_all=True)
    reasons, details = np.full((2, len(parts)), None, object)
    reasons[where] = verdicts["reason"].to_pylist()
    details[where] = list(map(_detail, verdicts["detail"].to_pylist(), rows.to_pylist()))
    numbers = np.arange(len(owner)) - np.searchsorted(owner, owner)
    measures = verdicts.drop_columns(["reason", "detail"])
    measures = measures.add_column(1, "image", pa.array(numbers, pa.int32()))
    return drop_images(documents, reasons.tolist(), details.tolist()), measures


def _detail(broken: str | None, row: dict[str, Any]) -> str:
    """What image filters decide by, for the ledger, and before it the bound that was broken."""
    score = None if row["score"] is None else f"score {row['score']:.4f}"
    sides = f"{row['width']}x{row['height']} {row['original_format']}"
    return ", ".join(filter(None, (broken, sides, score)))
