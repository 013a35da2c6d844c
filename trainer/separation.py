"""How well scores tell matched captions from shuffled ones: the area under the ROC curve (AUC).

It is the chance that a picture scores higher with its own caption than another picture does with
a caption that is not its own: 0.5 for a network that knows nothing, 1 for one that never errs.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from filters.ranking import auc

SHUFFLES = 10
POOLED = "pooled"


def shuffled_scores(
    images: NDArray[np.float32], texts: NDArray[np.float32], captions: Sequence[str]
) -> NDArray[np.float32]:
    """Scores of each image with the captions of the SHUFFLES rows after it, equal ones left out."""
    scores = []
    for shift in range(1, SHUFFLES + 1):
        moved = [captions[(row + shift) % len(captions)] for row in range(len(captions))]
        differ = np.array([a != b for a, b in zip(captions, moved, strict=True)], bool)
        scores.append((images * np.roll(texts, -shift, axis=0)).sum(1)[differ])
    return np.concatenate(scores)


def separation(
    images: NDArray[np.float32],
    texts: NDArray[np.float32],
    captions: Sequence[str],
    sources: Sequence[str],
) -> dict[str, float]:
    """AUC by source, and of all of them as POOLED; captions are shuffled within their source.

    Shuffling across sources would be easier: it rewards telling a stamp from a photograph. Sources
    whose captions are all the same have no shuffled pair and are left out.

    Args:
        images: unit rows [n, d], of the pictures.
        texts: unit rows [n, d], of their captions.
        captions: of each row.
        sources: of each row.
    """
    matched, others = (images * texts).sum(1), {}
    for source in sorted(set(sources)):
        rows = [row for row, name in enumerate(sources) if name == source]
        shuffled = shuffled_scores(images[rows], texts[rows], [captions[row] for row in rows])
        if len(shuffled):
            others[source] = matched[rows], shuffled
    return {source: auc(*scores) for source, scores in others.items()} | _pooled(others)


def _pooled(
    others: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> dict[str, float]:
    if not others:
        return {}
    matched, shuffled = (np.concatenate(scores) for scores in zip(*others.values(), strict=True))
    return {POOLED: auc(matched, shuffled)}
