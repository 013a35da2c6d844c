"""Steps that measure documents and leave a score on each; filters of the same name decide on it."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from configs.reading import ConfigError
from filters.flagged import ENGLISH, flagged_share
from filters.language import MODEL, identify
from filters.perplexity import perplexities
from filters.quality import BUNDLED, BUNDLED_FILE, quality
from pipelines.config.steps import FlaggedWords, Perplexity, Quality
from pipelines.reading.inputs import lines
from pipelines.stage import Part, Stage, map_parts
from shards import schema
from shards.storage import Location, Remote, location, open_stream, sha256_file
from shards.stores.options import StorageOptions

Measure = Callable[[list[str]], NDArray[Any]]  # from texts to one number a text


def language_stage(name: str, source: Stage) -> Stage:
    """Name each document's language and say how sure that is."""
    return Stage(
        name,
        partial(map_parts, work=_identify),
        sha256_file(MODEL),
        ("pipelines.scores.scoring",),
        inputs=(source.name,),
    )


def _identify(documents: pa.Table) -> tuple[Part, None]:
    languages, sure = identify(schema.texts(documents))
    named = schema.with_column(documents, "language", pa.array(languages, pa.string()))
    return (schema.with_score(named, "language", sure), schema.DROP.empty_table()), None


def flagged_words_stage(
    name: str, source: Stage, options: FlaggedWords, storage: StorageOptions
) -> Stage:
    """The share of each document's words that are on a list."""
    words = _entries(options.files, storage) if options.files else list(ENGLISH)
    measure = partial(flagged_share, words=words)
    return _score_stage(name, source, "flagged_words", measure, words)


def _entries(places: Sequence[str], storage: StorageOptions) -> list[str]:
    """The entries of all lists, one a line; raises `ConfigError` for one that cannot be read."""
    key = "corpora.text.steps.flagged_words.files"
    try:
        found = [line.strip() for line in lines(_located(key, places, storage))]
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    return sorted({line for line in found if line and not line.startswith("#")})


def quality_stage(name: str, source: Stage, options: Quality, storage: StorageOptions) -> Stage:
    """How probable it is that a classifier's good label is each document's."""
    if options.model == BUNDLED:
        return _score_stage(
            name,
            source,
            "quality",
            partial(quality, label=options.label),
            sha256_file(BUNDLED_FILE),
        )
    (model,) = _located("corpora.text.steps.quality.model", [options.model], storage)
    measure = partial(_quality, model=model, label=options.label)
    return _score_stage(name, source, "quality", measure, options.model_dump(), [model])


def _quality(texts: list[str], model: Location, label: str) -> NDArray[Any]:
    return quality(texts, local_copy(model), label)


def perplexity_stage(
    name: str, source: Stage, options: Perplexity, storage: StorageOptions
) -> Stage:
    """How much each document surprises a language model."""
    given = [place for place in (options.model, options.tokens) if place is not None]
    found = _located("corpora.text.steps.perplexity", given, storage)
    measure = partial(_perplexity, files=found)
    return _score_stage(name, source, "perplexity", measure, options.model_dump(), found)


def _perplexity(texts: list[str], files: Sequence[Location]) -> NDArray[Any]:
    return perplexities(texts, *map(local_copy, files))


def _score_stage(
    name: str,
    source: Stage,
    score: str,
    measure: Measure,
    config: Any,
    files: Sequence[Location] = (),
) -> Stage:
    return Stage(
        name,
        partial(map_parts, work=partial(_measure, score=score, measure=measure)),
        config,
        ("pipelines.scores.scoring",),
        inputs=(source.name,),
        files=tuple(files),
    )


def _measure(documents: pa.Table, score: str, measure: Measure) -> tuple[Part, None]:
    values = measure(schema.texts(documents))
    return (schema.with_score(documents, score, values), schema.DROP.empty_table()), None


def _located(key: str, places: Sequence[str], storage: StorageOptions) -> list[Location]:
    """Files that a recipe names; raises `ConfigError` for one that is not there."""
    found = [location(place, storage) for place in places]
    for place in found:
        try:
            open_stream(place).close()
        except FileNotFoundError as error:
            raise ConfigError(f"{key}: {place}: no such file") from error
    return found


@cache
def local_copy(place: Location) -> str:
    """The path of a file on this machine, fetched once a process: models are read by C++."""
    if not isinstance(place, Remote):
        return str(place)
    path = Path(tempfile.mkdtemp(prefix="mixwright-")) / place.name
    with open_stream(place) as stream, path.open("wb") as copy:
        shutil.copyfileobj(stream, copy)
    return str(path)
