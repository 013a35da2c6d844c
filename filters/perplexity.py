"""The perplexity of a text under a KenLM language model: how much each word surprises it.

Wenzek et al. 2020 (CCNet, arXiv 1911.00359) measure it over the lines of a document, whose models
of Wikipedia read SentencePiece tokens; OBELICS uses these too.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Score = Callable[[str], float]  # the log10 probability of a sentence, and of its end


def perplexities(
    texts: Sequence[str], model: str, tokens: str | None = None
) -> NDArray[np.float32]:
    """The perplexity of each text.

    Args:
        texts: documents; each line is a sentence.
        model: the path of a KenLM model, ARPA or binary.
        tokens: the path of the SentencePiece model that the language model was made with; without
            one, words are what white space separates.

    Returns:
        Perplexities of shape [len(texts)], at least 1; NaN of a text without words.

    Raises:
        ModuleNotFoundError: where the extra "perplexity" is not installed.
    """
    score, split = _model(model).score, _splitter(tokens)
    return np.array([perplexity(text, score, split) for text in texts], np.float32)


def perplexity(text: str, score: Score, split: Callable[[str], list[str]] = str.split) -> float:
    """10 to the negative mean log10 probability of the words and line ends of a text."""
    logarithm, length = 0.0, 0
    for line in text.split("\n"):
        if words := split(line):
            logarithm += score(" ".join(words))
            length += len(words) + 1
    return 10.0 ** (-logarithm / length) if length else float("nan")


@cache
def _model(path: str) -> Any:
    try:
        import kenlm
    except ModuleNotFoundError as error:
        raise _missing("kenlm") from error
    return kenlm.Model(path)


@cache
def _splitter(path: str | None) -> Callable[[str], list[str]]:
    if path is None:
        return str.split
    try:
        from sentencepiece import SentencePieceProcessor
    except ModuleNotFoundError as error:
        raise _missing("sentencepiece") from error
    pieces = SentencePieceProcessor(model_file=path)
    return lambda line: list(pieces.encode(line, out_type=str))


def _missing(package: str) -> ModuleNotFoundError:
    wanted = f'perplexity needs {package}, an extra: pip install "mixwright[perplexity]"'
    return ModuleNotFoundError(wanted, name=package)
