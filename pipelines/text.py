"""The prose of web pages: WARCs become unique documents of one text part."""

from collections import Counter

from pipelines.config import Step, Text
from pipelines.decontaminate import decontaminate_stage
from pipelines.dedupe import dedupe_stage
from pipelines.extraction import extract_stage
from pipelines.lines import lines_stage
from pipelines.masking import mask_stage
from pipelines.passages import passages_stage
from pipelines.scoring import (
    flagged_words_stage,
    language_stage,
    perplexity_stage,
    quality_stage,
)
from pipelines.stage import Stage, filter_stage
from shards.stores.options import StorageOptions


def stages(recipe: Text, storage: StorageOptions) -> list[Stage]:
    """The corpus from top to bottom: reading it, then the steps in the recipe's order."""
    made = [extract_stage("text/extract", recipe.read, recipe.read.extractor, storage)]
    used: Counter[str] = Counter()
    for step in recipe.steps:
        used[step.kind] += 1
        again = f"-{used[step.kind]}" if used[step.kind] > 1 else ""
        made.append(_stage(f"text/{step.kind}{again}", made[-1], step, recipe, storage))
    return made


def _stage(name: str, source: Stage, step: Step, recipe: Text, storage: StorageOptions) -> Stage:
    match step.kind:
        case "language":
            return language_stage(name, source)
        case "lines":
            return lines_stage(name, source, step.options)
        case "flagged_words":
            return flagged_words_stage(name, source, step.options, storage)
        case "quality":
            return quality_stage(name, source, step.options, storage)
        case "perplexity":
            return perplexity_stage(name, source, step.options, storage)
        case "filter":
            modules, every = ("filters.text", "filters.scored"), recipe.measure_all
            return filter_stage(name, source, step.options, *modules, measure_all=every)
        case "dedupe":
            return dedupe_stage(name, source, step.options, storage)
        case "passages":
            return passages_stage(name, source, step.options)
        case "decontaminate":
            return decontaminate_stage(name, source, step.options, storage)
        case "mask":
            return mask_stage(name, source, step.options)
    raise AssertionError(f"no stage is made of a step {step.kind!r}")
