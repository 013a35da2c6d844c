"""How probable a text is of the good kind, by a fastText classifier (Joulin et al. 2016).

The classifier that comes with the project tells running prose from change logs, licences, code
and the furniture of web pages; `weights/CARD.md` says how far. `mixwright train-quality` makes
one from two folders of texts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filters.classifiers import PREFIX, WEIGHTS, classifier

BUNDLED = "mixwright-quality"
BUNDLED_FILE = WEIGHTS / f"{BUNDLED}.ftz"
GOOD, BAD = "good", "bad"


def quality(texts: Sequence[str], model: str = BUNDLED, label: str = GOOD) -> NDArray[np.float32]:
    """The probability of `label` for each text.

    Args:
        texts: documents.
        model: the bundled classifier's name, or the path of a fastText model (.bin or .ftz).
        label: the label of good texts, without fastText's prefix.

    Returns:
        Probabilities of shape [len(texts)] in [0, 1], rounded to four decimals; 0 of a text
        without words.

    Raises:
        ModuleNotFoundError: where the extra "pipelines" is not installed.
        ValueError: the file is no fastText model.
    """
    fitted = classifier(BUNDLED_FILE if model == BUNDLED else model)
    found = [_probability(fitted, one_line(text), PREFIX + label) for text in texts]
    # The model's sums may round to a little more than 1.
    return np.clip(np.array(found, np.float32), 0, 1).round(4)


def one_line(text: str) -> str:
    """A text as fastText reads it, in training as in use: its words on one line."""
    return " ".join(text.split())


def _probability(fitted: Any, line: str, label: str) -> float:
    if not line:
        return 0.0
    labels, scores = fitted.predict(line, k=-1)
    return float(dict(zip(labels, scores, strict=True)).get(label, 0.0))
