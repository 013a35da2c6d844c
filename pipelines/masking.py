"""The step that puts placeholders for personal data, and counts them."""

from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters import pii
from filters.rules import Rule
from pipelines.config.steps import Mask
from pipelines.stage import Part, Stage, map_parts, measures_of
from shards import schema


def mask_stage(name: str, source: Stage, options: Mask) -> Stage:
    """Replace e-mail addresses, public IP addresses and phone numbers; count them by kind."""
    # The run's folder holds the configs of its stages, and is no place for a secret.
    config = options.model_dump() | {"key": schema.digest(options.key)}
    return Stage(
        name,
        partial(map_parts, work=partial(mask_documents, options=options)),
        config,
        ("pipelines.masking",),
        inputs=(source.name,),
    )


def mask_documents(documents: pa.Table, options: Mask) -> tuple[Part, pa.Table]:
    """Documents with placeholders, and how many of each kind were put into each document."""
    counts: dict[str, NDArray[np.int32]] = {}

    def apply(texts: list[str]) -> list[str]:
        masked, found = pii.mask(texts, **options.model_dump())
        counts.update(found)
        return masked

    masked = schema.with_texts(documents, apply)
    rules = [Rule(f"mask_{kind}", schema.text_sums(documents, n)) for kind, n in counts.items()]
    return (masked, schema.DROP.empty_table()), measures_of(documents, rules)
