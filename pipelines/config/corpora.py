"""What a recipe says of a corpus: its inputs, and its steps in an order that can work."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from configs.reading import Strict
from pipelines.config.sources import Pages, ProsePages, Tables
from pipelines.config.steps import Fetch, Step

NEEDS = {  # the step that has to stand before
    "step filter_images": "download",
    "step decontaminate_images": "download",
    "step nsfw": "download",
    "step clip": "download",
    "dedupe by image": "download",
    "dedupe by near_image": "download",
    "dedupe by semantic": "clip",
    "filter image_nsfw": "nsfw",
    "filter image_similarity": "clip",
}


SCORERS = ("language", "lines", "flagged_words", "quality", "perplexity")  # of their own name


def _scores(steps: Sequence[Step]) -> list[str]:
    """The scores that steps give to documents."""
    clips = [clip.name for step in steps for clip in step.clip or []]
    return [*(step.kind for step in steps if step.kind in SCORERS), *clips]


def _needs(step: Step) -> dict[str, str]:
    """What a step and its filters need before them; a filter named like a step needs that step."""
    filtering = step.kind in ("filter", "filter_images")
    names = [f"filter {spec.name}" for spec in step.options] if filtering else []
    scores = {name: kind for name in names if (kind := name.split()[1]) in Step.model_fields}
    keys = [f"dedupe by {kind}" for kind in step.dedupe.kinds] if step.dedupe else []
    return scores | {n: NEEDS[n] for n in (f"step {step.kind}", *names, *keys) if n in NEEDS}


def _asked(step: Step) -> list[tuple[str, str]]:
    """Who asks for scores by name, and for which."""
    filters = [spec for spec in step.filter or [] if spec.name == "scored"]
    named = [("filter scored", spec.thresholds.get("name", "similarity")) for spec in filters]
    return named + ([("step select", step.select.by)] if step.select else [])


class Corpus(Strict):
    """Steps in the order that they are written in, after what was read."""

    steps: list[Step] = []
    measure_all: bool = False  # let filters measure what others have dropped, for `mixwright tune`

    @property
    def adopts(self) -> bool:
        """Whether pictures are there before any is downloaded."""
        return False

    @model_validator(mode="after")
    def _scores_are_there(self) -> "Corpus":
        for number, step in enumerate(self.steps):
            known = _scores(self.steps[:number])
            for name, score in _asked(step):
                if score not in known:
                    raise ValueError(
                        f"the {name} needs a step before it that gives the score {score}; "
                        f"those before it give: {', '.join(known) or 'none'}"
                    )
        return self

    @model_validator(mode="after")
    def _what_a_step_needs_comes_first(self) -> "Corpus":
        """Pictures before what looks at them, and scores before the filters that decide on them."""
        before: list[str] = []
        for step in self.steps:
            for name, needed in _needs(step).items():
                if needed not in before:
                    raise ValueError(f"the {name} needs a step {needed} before it")
            before.append(step.kind)
        if before.count("download") > 1:
            raise ValueError("there is more than one step download")
        return self


class Pictured(Corpus):
    """A corpus with pictures, which have to be downloaded."""

    steps: list[Step] = [Step(download=Fetch())]

    @model_validator(mode="after")
    def _pictures_are_fetched(self) -> "Pictured":
        if not any(step.kind == "download" for step in self.steps):
            raise ValueError("there is no step download, and so no picture")
        return self


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


class Captions(Pictured):
    """Image-caption pairs, of one source or a list of them."""

    read: Annotated[list[Tables], BeforeValidator(_as_list), Field(min_length=1)]

    @property
    def adopts(self) -> bool:
        """Whether pictures of any source are there already."""
        return any(tables.adopts for tables in self.read)

    @property
    def sources(self) -> dict[str, float | None]:
        """The weight of each source by name, in the recipe's order."""
        each = [entry for t in self.read for entry in (t, t.synthetic) if entry is not None]
        return {entry.source: entry.weight for entry in each}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each source, if the recipe gives them."""
        return {name: weight for name, weight in self.sources.items() if weight is not None}

    @model_validator(mode="after")
    def _sources_differ(self) -> "Captions":
        count = sum(1 + (tables.synthetic is not None) for tables in self.read)
        if len(self.sources) < count:
            raise ValueError("two sources have one name: give each a source of its own")
        weights = self.sources.values()
        if None in weights and any(weights):
            raise ValueError("give all sources a weight, or none")
        return self


class Interleaved(Pictured):
    """Web pages with their pictures in place."""

    read: Pages


class Text(Corpus):
    """Prose of web pages."""

    read: ProsePages

    @model_validator(mode="after")
    def _there_are_no_pictures(self) -> "Text":
        if any(step.kind == "download" for step in self.steps):
            raise ValueError("text has no pictures to download")
        if any(step.copies and step.copies.of == "image" for step in self.steps):
            raise ValueError("text has no pictures; copies may be of: caption")
        return self


class Corpora(Strict):
    """The raw material; a corpus that is left out is not made."""

    captions: Captions | None = None
    interleaved: Interleaved | None = None
    text: Text | None = None

    @property
    def files(self) -> list[str]:
        """What the recipe names as inputs."""
        reads = [corpus.read for _, corpus in self if corpus is not None]
        sources = [s for read in reads for s in (read if isinstance(read, list) else [read])]
        return [path for source in sources for path in source.files]
