"""Training of a fastText quality classifier from two collections of texts.

Trained with one thread and a seed, so that the same texts give the same file, byte for byte. A
tenth of the texts, chosen by hash, is kept out to measure the classifier on.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.reading import ConfigError
from filters.classifiers import PREFIX, library
from filters.quality import BAD, GOOD, one_line, quality
from filters.ranking import auc
from pipelines.reading.compressed import whole
from shards.storage import Location, exists, location, names, read_table, write_atomic

HELD_OUT = 10  # one text in so many
RATE = 0.5  # of learning, to begin with


@dataclass(frozen=True)
class Trained:
    """How many texts a classifier was made of, and how it does on those that it has not seen."""

    good: int
    bad: int
    held_out_good: int
    held_out_bad: int
    auc: float  # how probably a good text is found better than a bad one
    precision: float  # of the texts with a probability of 0.5 or more, the share that is good
    recall: float  # of the good texts, the share with such a probability


def train(
    good: str,
    bad: str,
    out: str,
    *,
    dimensions: int = 16,
    pairs: int = 1 << 20,
    features: int = 0,
    epochs: int = 20,
    seed: int = 0,
) -> Trained:
    """Train on the texts of two folders or files, write the model to `out`.

    A file of JSON lines (.jsonl, .jsonl.gz, .jsonl.zst) or Parquet holds a text a row, in the
    field "text"; any other file is one text. Texts that stand twice count once. `out` ends in
    .bin, or in .ftz for a quantised model of a tenth of the size. A word, and each of `pairs`
    buckets for pairs of words, has a vector of `dimensions` numbers; a quantised model keeps the
    `features` of them that matter most, or all.

    Raises:
        ConfigError: a collection is too small or is none, `out` has another ending, or training
            diverged.
        ModuleNotFoundError: where the extra "pipelines" is not installed.
    """
    if not out.endswith((".bin", ".ftz")):
        raise ConfigError(f"{out}: a model's file ends in .bin, or in .ftz if it is quantised")
    kinds = [_split(_texts(location(place)), place) for place in (good, bad)]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        corpus.write_text(_corpus([seen for seen, _ in kinds]), encoding="utf-8")
        model = Path(folder) / Path(out).name
        _fit(corpus, model, features, dim=dimensions, bucket=pairs, epoch=epochs, seed=seed)
        write_atomic(location(out), model.read_bytes())
        scores = [quality(unseen, str(model)) for _, unseen in kinds]
    (seen_good, unseen_good), (seen_bad, unseen_bad) = kinds
    counts = (len(seen_good), len(seen_bad), len(unseen_good), len(unseen_bad))
    return Trained(*counts, *_figures(*scores))


def _split(texts: list[str], place: str) -> tuple[list[str], list[str]]:
    """Distinct texts to train on and to keep out, each in the order of their hashes."""
    hashed = sorted((hashlib.sha256(text.encode()).digest(), text) for text in set(texts))
    seen = [text for digest, text in hashed if digest[-1] % HELD_OUT]
    unseen = [text for digest, text in hashed if not digest[-1] % HELD_OUT]
    if not seen or not unseen:
        raise ConfigError(
            f"{place}: {len(hashed)} distinct texts are too few to train on some and to measure "
            f"on one in {HELD_OUT}"
        )
    return seen, unseen


def _corpus(kinds: Sequence[list[str]]) -> str:
    """FastText's lines of a label and a text, both kinds evenly among each other."""
    lines = [
        ((i + 0.5) / len(texts), f"{PREFIX}{label} {text}\n")
        for label, texts in zip((GOOD, BAD), kinds, strict=True)
        for i, text in enumerate(texts)
    ]
    return "".join(line for _, line in sorted(lines))


def _fit(corpus: Path, model: Path, features: int, **options: int) -> None:
    common: dict[str, Any] = {"lr": RATE, "thread": 1, "verbose": 0}
    try:
        train_supervised = library().train_supervised
        fitted = train_supervised(str(corpus), wordNgrams=2, minCount=2, **common, **options)
        if model.suffix == ".ftz":
            again = {"input": str(corpus), "retrain": True} if features else {}
            epoch = options["epoch"]
            fitted.quantize(qnorm=True, cutoff=features, epoch=epoch, **common, **again)
    except RuntimeError as error:
        raise ConfigError(f"training failed: {error} Fewer epochs may help") from error
    fitted.save_model(str(model))


def _figures(good: NDArray[np.float32], bad: NDArray[np.float32]) -> tuple[float, float, float]:
    """Area under the ROC curve, precision and recall at 0.5."""
    found, wrong = int((good >= 0.5).sum()), int((bad >= 0.5).sum())
    return auc(good, bad), found / max(found + wrong, 1), found / len(good)


def _texts(place: Location) -> list[str]:
    """The texts of a file, or of all files in a folder, each on one line; empty ones are left out.

    Raises `ConfigError` for a place that is not there.
    """
    if exists(place):
        files = [place]
    else:
        files = [place / name for name in names(place)]
        files = [file for file in files if exists(file)]
    if not files:
        raise ConfigError(f"{place}: no such file, or a folder without files")
    return [line for file in files for text in _read(file) if (line := one_line(text))]


def _read(file: Location) -> Iterator[str]:
    if file.suffix == ".parquet":
        yield from filter(None, read_table(file, ["text"])["text"].to_pylist())
        return
    lines = file.name.removesuffix(".gz").removesuffix(".zst").endswith(".jsonl")
    try:
        text = whole(file).decode()
    except ValueError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not lines:
        yield text
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield _text_of(line, f"{file}, line {number}")


def _text_of(line: str, where: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (ValueError, TypeError, KeyError):
        raise ConfigError(f'{where}: no JSON object with a field "text"') from None
    if not isinstance(text, str):
        raise ConfigError(f'{where}: the field "text" is no string')
    return text
