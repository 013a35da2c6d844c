"""The step that puts placeholders for personal data, and counts them."""

from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters import pii
from filters.rules import Rule
from pipelines.config import Mask
from pipelines.stage import Place, Stage, measures_of, write_documents
from shards import schema


def mask_stage(name: str, source: Stage, options: Mask) -> Stage:
    """Replace e-mail addresses, public IP addresses and phone numbers; count them by kind."""
    # The run's folder holds the configs of its stages, and is no place for a secret.
    config = options.model_dump() | {"key": schema.digest(options.key)}
    return Stage(
        name,
        partial(_mask, options=options),
        config,
        ("pipelines.masking",),
        inputs=(source.name,),
    )


def _mask(parts: Any, place: Place, options: Mask) -> Any:
    return parts | "mask" >> beam.Map(_mask_part, place, options)


def _mask_part(part: int, place: Place, options: Mask) -> int:
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            masked, measures = mask_documents(documents, options)
            result = masked, schema.DROP.empty_table()
            write_documents(place, part, documents, result, measures=measures)
    return part


def mask_documents(documents: pa.Table, options: Mask) -> tuple[pa.Table, pa.Table]:
    """Documents with placeholders, and how many of each kind were put into each document."""
    counts: dict[str, NDArray[np.int32]] = {}

    def apply(texts: list[str]) -> list[str]:
        masked, found = pii.mask(texts, **options.model_dump())
        counts.update(found)
        return masked

    masked = schema.with_texts(documents, apply)
    rules = [Rule(f"mask_{kind}", schema.text_sums(documents, n)) for kind, n in counts.items()]
    return masked, measures_of(documents, rules)
