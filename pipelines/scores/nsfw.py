"""NSFW scores through Beam's RunInference: one model a process, pictures read where scored."""

from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.reading import ConfigError
from filters.nsfw import BATCH, MISSING, PACKAGE, nsfw_scores
from pipelines.images import image_rows, read_index
from pipelines.stage import Place, Stage, write_documents
from shards import schema
from shards.images import open_image, read_images
from shards.ledger import part_name
from shards.storage import Location, write_table

Scorer = Any  # the function nsfw_scores, which keeps its model


def nsfw_stage(name: str, source: Stage, fetched: Stage) -> Stage:
    """Score every picture of `source`; filters of later stages decide on that.

    Raises `ConfigError` where the detector is not installed.
    """
    if find_spec(PACKAGE) is None:
        corpus = name.split("/")[0]
        raise ConfigError(f"corpora.{corpus}.steps: {MISSING}")
    return Stage(
        name,
        _score,
        {PACKAGE: version(PACKAGE)},
        (
            "pipelines.scores.nsfw",
            "pipelines.scores.inference",
            "filters.nsfw",
            "pipelines.images",
        ),
        inputs=(source.name,),
        lookups=(fetched.name,),
    )


def _score(parts: Any, place: Place) -> Any:
    from pipelines.scores.inference import score_parts  # which takes seconds to load

    scored = score_parts(parts, _model, partial(_scored, place=place))
    return scored | "write" >> beam.Map(_write, place)


def _model() -> Scorer:
    return nsfw_scores


def _scored(part: int, model: Scorer, place: Place) -> pa.Table | None:
    if place.has(part):
        return None
    with place.clock():
        _, rows = image_rows(place.read(part), read_index(place.lookups[0], part))
        rows = rows.take(_firsts(rows["url"]))
        return pa.table([rows["url"], _scores(rows, place.lookups[0], model)], schema=schema.NSFW)


def _firsts(values: pa.ChunkedArray) -> pa.Array:
    """Where each distinct value stands first."""
    return pc.index_in(pc.unique(values), values.combine_chunks())


def _scores(rows: pa.Table, store: Location, model: Scorer) -> pa.Array:
    """A score a row; the pictures of a batch are in memory at once, and equal ones scored once."""
    hashes = rows["sha256"].combine_chunks()
    distinct = rows.take(_firsts(rows["sha256"]))
    batches = [distinct.slice(i, BATCH) for i in range(0, distinct.num_rows, BATCH)]
    found = [model(list(map(open_image, read_images(store, batch)))) for batch in batches]
    scores = pa.array(np.concatenate([np.empty(0, np.float32), *found]))
    return scores.take(pc.index_in(hashes, distinct["sha256"].combine_chunks()))


def _write(scored: Any, place: Place) -> int:
    part = int(scored.example)
    if scored.inference is not None:  # else an earlier, interrupted run has finished it
        documents = place.read(part)
        write_table(place.out / "scores" / f"{part_name(part)}.parquet", scored.inference)
        result = documents, schema.DROP.empty_table()
        write_documents(place, part, documents, result)
    return part
