"""The prose of web pages: WARCs become unique documents of one text part."""

from collections import Counter
from functools import partial

import numpy as np
import pyarrow as pa

from filters import pii
from filters.language import identify
from pipelines.config import Step, Text
from pipelines.dedupe import dedupe_stage
from pipelines.extraction import extract_stage
from pipelines.stage import Part, Stage, filter_stage, map_parts
from shards import schema
from shards.stores.options import StorageOptions


def stages(recipe: Text, storage: StorageOptions) -> list[Stage]:
    """The corpus from top to bottom: reading it, then the steps in the recipe's order."""
    made = [extract_stage("text/extract", recipe.read, "prose", storage)]
    used: Counter[str] = Counter()
    for step in recipe.steps:
        used[step.kind] += 1
        again = f"-{used[step.kind]}" if used[step.kind] > 1 else ""
        made.append(_stage(f"text/{step.kind}{again}", made[-1], step, recipe))
    return made


def _stage(name: str, source: Stage, step: Step, recipe: Text) -> Stage:
    match step.kind:
        case "language":
            return language_stage(name, source)
        case "filter":
            every = recipe.measure_all
            return filter_stage(name, source, step.options, "filters.text", measure_all=every)
        case "dedupe":
            return dedupe_stage(name, source, step.options)
        case "mask":
            return mask_stage(name, source)
    raise AssertionError(f"no stage is made of a step {step.kind!r}")


def language_stage(name: str, source: Stage) -> Stage:
    """Name each document's language and say how sure that is; filters decide on it."""
    return Stage(
        name,
        partial(map_parts, work=_identify),
        {},
        ("pipelines.text",),
        inputs=(source.name,),
    )


def _identify(documents: pa.Table, part: int) -> Part:
    languages, sure = identify(schema.texts(documents))
    scores = pa.array([[("language", float(score))] for score in sure], schema.SCORES)
    named = schema.with_column(documents, "language", pa.array(languages, pa.string()))
    return schema.with_column(named, "scores", scores), schema.DROP.empty_table()


def mask_stage(name: str, source: Stage) -> Stage:
    """Replace e-mail and public IP addresses by placeholders (FineWeb's rule)."""
    return Stage(
        name,
        partial(map_parts, work=_mask),
        {},
        ("pipelines.text",),
        inputs=(source.name,),
    )


def _mask(documents: pa.Table, part: int) -> Part:
    _, parts = schema.flatten_parts(documents)
    where = np.flatnonzero(np.asarray(parts.field("text").is_valid()))
    texts = parts.field("text").to_pylist()
    masked, _ = pii.mask([texts[i] for i in where])
    for i, text in zip(where, masked, strict=True):
        texts[i] = text
    changed = schema.with_parts(documents, "text", pa.array(texts, pa.string()))
    return changed, schema.DROP.empty_table()
