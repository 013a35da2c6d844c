"""The language of a text, by fastText's model of 176 languages.

Joulin et al. 2016 (arXiv 1607.01759 and, of the compression, 1612.03651); `weights/CARD.md` says
where the model is from.
"""

import numpy as np
from numpy.typing import NDArray

from filters.classifiers import PREFIX, WEIGHTS, classifier

UNKNOWN = "und"  # "undetermined" in ISO 639-2
MODEL = WEIGHTS / "lid.176.ftz"


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
    labels, scores = classifier(MODEL).predict(line)
    return labels[0].removeprefix(PREFIX), scores[0]
