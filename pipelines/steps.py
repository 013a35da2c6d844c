"""From the steps of a corpus to its stages: each step is a stage over what the one before kept."""

from collections import Counter
from collections.abc import Sequence

from pipelines.config.corpora import Corpus
from pipelines.config.steps import Download, Step
from pipelines.duplicates.copies import copies_stage
from pipelines.duplicates.decontaminate import decontaminate_stage
from pipelines.duplicates.decontaminate_images import decontaminate_images_stage
from pipelines.duplicates.dedupe import dedupe_stage
from pipelines.duplicates.passages import passages_stage
from pipelines.fetching.download import download_stage
from pipelines.images import image_filter_stage
from pipelines.lines import lines_stage
from pipelines.masking import mask_stage
from pipelines.scores.scoring import (
    flagged_words_stage,
    language_stage,
    perplexity_stage,
    quality_stage,
)
from pipelines.scores.selection import select_stage
from pipelines.stage import Stage, filter_stage
from shards.stores.options import StorageOptions


def corpus_stages(
    read: Stage, corpus: Corpus, download: Download, storage: StorageOptions
) -> list[Stage]:
    """A corpus from top to bottom: reading it, then the steps in the recipe's order.

    A stage is named by its step, such as "text/dedupe"; of the second of a kind, "text/dedupe-2".
    """
    made, used = [read], Counter[str]()
    for step in corpus.steps:
        used[step.kind] += 1
        again = f"-{used[step.kind]}" if used[step.kind] > 1 else ""
        name = f"{read.name.split('/')[0]}/{step.kind}{again}"
        made.append(_stage(name, made, step, corpus, download, storage))
    return made


def downloaded(stages: Sequence[Stage]) -> Stage | None:
    """Of the stages of a corpus the one that has its pictures."""
    return next((stage for stage in stages if stage.name.endswith("/download")), None)


def embedded(made: Sequence[Stage], corpus: Corpus) -> Stage | None:
    """Of the stages that are made of a corpus the last that keeps embeddings of its pictures."""
    clips = [(stage, step.clip) for stage, step in zip(made[1:], corpus.steps, strict=False)]
    keeping = [stage for stage, clip in clips if clip and any(each.embeddings for each in clip)]
    return keeping[-1] if keeping else None


def _stage(
    name: str,
    made: Sequence[Stage],
    step: Step,
    corpus: Corpus,
    download: Download,
    storage: StorageOptions,
) -> Stage:
    source, options = made[-1], step.options
    match step.kind:
        case "language":
            return language_stage(name, source)
        case "lines":
            return lines_stage(name, source, options)
        case "flagged_words":
            return flagged_words_stage(name, source, options, storage)
        case "quality":
            return quality_stage(name, source, options, storage)
        case "perplexity":
            return perplexity_stage(name, source, options, storage)
        case "filter":
            return filter_stage(name, source, options, measure_all=corpus.measure_all)
        case "dedupe":
            found = {"fetched": downloaded(made), "embedded": embedded(made, corpus)}
            return dedupe_stage(name, source, options, storage, **found)
        case "passages":
            return passages_stage(name, source, options)
        case "decontaminate":
            return decontaminate_stage(name, source, options, storage)
        case "mask":
            return mask_stage(name, source, options)
        case "select":
            return select_stage(name, source, options)
        case "download":
            return download_stage(name, source, download, made[0] if corpus.adopts else None)
        case "copies":
            return copies_stage(name, source, options)
    fetched = downloaded(made)
    assert fetched is not None, "a recipe that lacks it was refused"
    match step.kind:
        case "decontaminate_images":
            return decontaminate_images_stage(name, source, fetched, options, storage)
        case "filter_images":
            scorers = [stage for stage in made if stage.name.split("/")[1].startswith("nsfw")]
            return image_filter_stage(name, source, fetched, options, scorers)
        # Beam's RunInference loads torch: seconds that only those wait for who ask a model.
        case "nsfw":
            from pipelines.scores.nsfw import nsfw_stage

            return nsfw_stage(name, source, fetched)
        case "clip":
            from pipelines.scores.score import score_stage

            return score_stage(name, source, fetched, options)
    raise AssertionError(f"no stage is made of a step {step.kind!r}")
