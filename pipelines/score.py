"""CLIP scores through Beam's RunInference: one model a process, images read where scored."""

from collections.abc import Iterable, Sequence
from functools import cache, partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference

from configs.reading import ConfigError
from filters.clip import BUNDLED, CONFIG, WEIGHTS, ClipModel, load_clip, network_folder
from filters.similarity import best_fits
from pipelines.config import Clip
from pipelines.images import image_rows, read_index, set_scores
from pipelines.stage import Place, Stage, write_documents
from shards import schema
from shards.images import read_images
from shards.storage import sha256_file, stamp


class ClipHandler(ModelHandler[int, PredictionResult, ClipModel]):  # type: ignore[misc]
    """Scores whole parts: an element is the number of a part, a prediction its new documents.

    Parts, and not pictures, are the elements, so that no image is ever an element: bytes are read
    from the store, decoded and embedded in one place. The model batches by a fixed size of its
    own, so that a score does not depend on how Beam groups elements.
    """

    def __init__(self, clip: Clip, place: Place) -> None:
        super().__init__()
        self.clip, self.place = clip, place

    def load_model(self) -> ClipModel:
        """The model that all stages of this process share."""
        return _loaded(self.clip.model, self.clip.pretrained)

    def run_inference(
        self, batch: Sequence[int], model: ClipModel, inference_args: Any = None
    ) -> Iterable[PredictionResult]:
        """Score the documents of each part."""
        return [PredictionResult(part, _score_part(part, self.place, model)) for part in batch]

    def batch_elements_kwargs(self) -> dict[str, int]:
        """A part is a batch already."""
        return {"max_batch_size": 1}


@cache
def _loaded(model: str, pretrained: str | None) -> ClipModel:
    """One thread a process: there is one process a core, and sums do not change with cores."""
    import torch

    torch.set_num_threads(1)
    return load_clip(model, pretrained)


def _score_part(part: int, place: Place, model: ClipModel) -> pa.Table | None:
    if place.has(part):
        return None
    with place.clock():
        documents = place.read(part)
        where, rows = image_rows(documents, read_index(place.lookups[0], part))
        images = read_images(place.lookups[0], rows)
        return set_scores(documents, where, best_fits(documents, images, model).tolist())


def score_stage(name: str, source: Stage, fetched: Stage, clip: Clip) -> Stage:
    """Fill in the similarity of every image part; thresholds are a stage of their own."""
    return Stage(
        name,
        partial(_score, clip=clip),
        [clip.model_dump(), _weights_stamp(clip)],
        ("pipelines.score", "pipelines.images"),
        inputs=(source.name,),
        lookups=(fetched.name,),
    )


def _score(parts: Any, place: Place, clip: Clip) -> Any:
    return (
        parts
        | "clip" >> RunInference(ClipHandler(clip, place))
        | "write" >> beam.Map(_write, place)
    )


def _write(scored: PredictionResult, place: Place) -> int:
    part = int(scored.example)
    if scored.inference is not None:  # else an earlier, interrupted run has finished it
        result = scored.inference, schema.DROP.empty_table()
        write_documents(place, part, place.read(part), result)
    return part


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
