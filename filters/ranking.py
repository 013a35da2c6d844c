"""How well scores tell what is good from what is bad, whatever the threshold."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def auc(good: NDArray[Any], bad: NDArray[Any]) -> float:
    """The area under the ROC curve: the chance that a good one's score is higher, ties half.

    Args:
        good: scores of shape [n], n > 0.
        bad: scores of shape [m], m > 0.
    """
    ordered = np.sort(bad)
    below, upto = (np.searchsorted(ordered, good, side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(bad)))
