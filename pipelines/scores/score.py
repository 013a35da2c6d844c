"""CLIP scores through Beam's RunInference: one model a process, images read where scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import as_file, files
from itertools import chain
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.reading import ConfigError
from filters.clip import (
    BUNDLED,
    CONFIG,
    WEIGHTS,
    ClipModel,
    ahead,
    embed_once,
    network_folder,
    scorer,
)
from filters.similarity import best_fits, best_pictures
from pipelines.config.steps import Clip
from pipelines.images import image_rows, read_index, set_scores
from pipelines.stage import Place, Stage, write_documents
from shards import schema
from shards.images import open_image, read_images
from shards.ledger import part_name
from shards.storage import Location, sha256_file, stamp, write_table

READ_AT_ONCE = 256  # images whose bytes are in memory, twice: these, and the next ones


class Models(list[ClipModel]):
    """The models of a step; Beam keeps a weak reference to it, which a plain list cannot have."""


@dataclass(frozen=True)
class Scored:
    """A part with its scores and, if they are asked for, its embeddings."""

    documents: pa.Table
    embeddings: pa.Table | None


def score(
    documents: pa.Table, index: pa.Table, store: Location, clips: Sequence[Clip], models: Models
) -> Scored:
    """Every image is read and decoded once, however often it is shown and for how many models."""
    where, rows = image_rows(documents, index)
    images, shown = _distinct(rows)
    embedded = embed_once(models, _bodies(store, images), open_image)
    pictures = [found[shown] for found in embedded]
    fits = [best_fits(documents, *each) for each in zip(pictures, models, strict=True)]
    for clip, scores in zip(clips, fits, strict=True):
        documents = schema.with_score(documents, clip.name, best_pictures(documents, scores))
    kept = [found for found, clip in zip(embedded, clips, strict=True) if clip.embeddings]
    table = _embeddings(images, kept[0]) if kept else None
    return Scored(set_scores(documents, where, fits[0].tolist()), table)


def _distinct(rows: pa.Table) -> tuple[pa.Table, NDArray[np.int64]]:
    """One row for each different image, by its place in the store, and which one each row is.

    Of an image with several URLs it is the row of the smallest.
    """
    number = pa.array(range(rows.num_rows), pa.int64())
    ordered = rows.append_column("number", number).sort_by([("url", "ascending")])
    names = np.asarray(ordered["sha256"].to_pylist(), object)
    _, first = np.unique(names.astype(str), return_index=True)
    images = ordered.take(pa.array(np.sort(first)))
    images = images.sort_by([("tar", "ascending"), ("offset", "ascending")])
    shown = pc.index_in(rows["sha256"], images["sha256"].combine_chunks())
    return images, shown.to_numpy().astype(np.int64)


def _bodies(store: Location, images: pa.Table) -> Iterator[bytes]:
    """The bytes of images, some read while those before are looked at."""
    starts = range(0, images.num_rows, READ_AT_ONCE)
    pieces = (images.slice(start, READ_AT_ONCE) for start in starts)
    return chain.from_iterable(ahead(partial(read_images, store), pieces, 1, 1))


def _embeddings(images: pa.Table, found: NDArray[np.float32]) -> pa.Table:
    """`url`, `sha256` and `embedding`, float16 of length 1, of each image by its sha256."""
    width = found.shape[1]
    values = pa.array(found.astype(np.float16).reshape(-1), pa.float16())
    column = pa.FixedSizeListArray.from_arrays(values, width)
    columns = {"url": images["url"], "sha256": images["sha256"], "embedding": column}
    order = pc.sort_indices(images["sha256"])
    return pa.table(columns).take(order)


def score_stage(name: str, source: Stage, fetched: Stage, clips: Sequence[Clip]) -> Stage:
    """Fill in the similarity of every image part; thresholds are a stage of their own.

    The first of the models gives images their score; a document has one of each model, under its
    name, which is that of its best image.

    Raises:
        ConfigError: a model is a folder that lacks a file of a network.
    """
    return Stage(
        name,
        partial(_score, clips=clips),
        [[clip.model_dump(), _weights_stamp(clip)] for clip in clips],
        ("pipelines.scores.score", "pipelines.scores.inference", "pipelines.images"),
        inputs=(source.name,),
        lookups=(fetched.name,),
    )


def _score(parts: Any, place: Place, clips: Sequence[Clip]) -> Any:
    from pipelines.scores.inference import score_parts  # which takes seconds to load

    load, work = partial(_models, clips), partial(_scored, place=place, clips=clips)
    return score_parts(parts, load, work) | "write" >> beam.Map(_write, place)


def _models(clips: Sequence[Clip]) -> Models:
    """The models that all stages of this process share."""
    return Models(map(_model, clips))


def _scored(part: int, models: Models, place: Place, clips: Sequence[Clip]) -> Scored | None:
    if place.has(part):
        return None
    with place.clock():
        store = place.lookups[0]
        documents, index = place.read(part), read_index(store, part)
        return score(documents, index, store, clips, models)


def _write(scored: Any, place: Place) -> int:
    part, found = int(scored.example), scored.inference
    if found is not None:  # else an earlier, interrupted run has finished it
        if found.embeddings is not None:
            name = f"{part_name(part)}.parquet"
            write_table(place.out / "embeddings" / name, found.embeddings)
        result = found.documents, schema.DROP.empty_table()
        write_documents(place, part, place.read(part), result)
    return part


def _model(clip: Clip) -> ClipModel:
    bf16 = None if clip.precision is None else clip.precision == "bf16"
    return _loaded(clip.model, clip.pretrained, clip.batch, bf16)


@cache
def _loaded(model: str, pretrained: str | None, batch: int | None, bf16: bool | None) -> ClipModel:
    """One thread a process: there is one process a core, and sums do not change with cores."""
    import torch

    torch.set_num_threads(1)
    return scorer(model, pretrained, batch=batch, bf16=bf16)


def _weights_stamp(clip: Clip) -> list[str | int]:
    """What identifies weights beside their name: the bundled ones' hash, a file's size and time."""
    if clip.model == BUNDLED:
        with as_file(files("filters") / "weights" / f"{BUNDLED}.safetensors") as path:
            return [sha256_file(path)]
    named = [clip.pretrained] if clip.pretrained else _folder_files(clip.model)
    return [part for path in map(Path, named) if path.is_file() for part in stamp(path)[1:]]


def _folder_files(model: str) -> list[Path]:
    """The files of a network that is a folder; raises `ConfigError` if one is missing."""
    try:
        folder = network_folder(model)
    except ValueError as error:
        raise ConfigError(f"clip.model: {error}") from None
    return [folder / CONFIG, folder / WEIGHTS] if folder else []
