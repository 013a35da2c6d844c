"""From a recipe to the stages of its run."""

from configs.reading import ConfigError
from pipelines import captions, interleaved, mix, text
from pipelines.config import Recipe
from pipelines.mix import Source
from pipelines.stage import Stage


def stages_of(recipe: Recipe) -> list[Stage]:
    """Every stage of the run; a stage comes after those that it reads."""
    corpora, download, storage = recipe.corpora, recipe.download, recipe.storage.options()
    stages: list[Stage] = []
    sources: list[Source] = []
    if corpora.captions:
        stages += captions.stages(corpora.captions, download, storage)
        sources.append(_source("captions", stages))
    if corpora.interleaved:
        stages += interleaved.stages(corpora.interleaved, download, storage)
        sources.append(_source("interleaved", stages))
    if corpora.text:
        stages += text.stages(corpora.text, storage)
        sources.append(_source("text", stages))
    resized = download.resize is not None
    return stages + mix.stages(recipe.mix, recipe.seed, sources, resized=resized)


def _source(corpus: str, stages: list[Stage]) -> Source:
    fetched = [stage for stage in stages if stage.name == f"{corpus}/download"]
    return Source(corpus, stages[-1], fetched[0] if fetched else None)


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
