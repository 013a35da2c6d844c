"""From a recipe to the stages of its run."""

from configs.reading import ConfigError
from pipelines import mix
from pipelines.config.recipe import Recipe
from pipelines.mix import Source
from pipelines.reading.captions import read_stage
from pipelines.reading.extraction import extract_stage
from pipelines.stage import Stage
from pipelines.steps import corpus_stages, downloaded


def stages_of(recipe: Recipe) -> list[Stage]:
    """Every stage of the run; a stage comes after those that it reads."""
    storage, download = recipe.storage.options(), recipe.download
    made = {
        name: corpus_stages(read, getattr(recipe.corpora, name), download, storage)
        for name, read in _readers(recipe).items()
    }
    weights = {"captions": recipe.corpora.captions.weights} if recipe.corpora.captions else {}
    sources = [
        Source(name, stages[-1], downloaded(stages), weights.get(name, {}))
        for name, stages in made.items()
    ]
    mixed = mix.stages(recipe.mix, recipe.seed, sources, resized=download.resize is not None)
    return [stage for stages in made.values() for stage in stages] + mixed


def _readers(recipe: Recipe) -> dict[str, Stage]:
    """The first stage of each corpus that is made."""
    corpora, storage = recipe.corpora, recipe.storage.options()
    found: dict[str, Stage] = {}
    if corpora.captions:
        found["captions"] = read_stage("captions/read", corpora.captions.read, storage)
    if corpora.interleaved:
        pages = corpora.interleaved.read
        found["interleaved"] = extract_stage("interleaved/extract", pages, "interleaved", storage)
    if corpora.text:
        read = corpora.text.read
        found["text"] = extract_stage("text/extract", read, read.extractor, storage)
    return found


def selected(stages: list[Stage], only: str | None) -> list[Stage]:
    """The stages that `--only` names, by stage or corpus, and those that they read.

    Raises `ConfigError` that lists what may be named.
    """
    if only is None:
        return stages
    known = {stage.name: stage for stage in stages}
    wanted = [s.name for s in stages if only in (s.name, s.name.split("/")[0])]
    if not wanted:
        raise ConfigError(f"--only {only}: no such stage; there are {', '.join(known)}")
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        needed.add(name)
        wanted += [n for n in (*known[name].inputs, *known[name].lookups) if n not in needed]
    return [stage for stage in stages if stage.name in needed]
