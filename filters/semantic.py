"""Clusters of embeddings and the near ones in each, with sums that no order of adding changes.

Embeddings are made whole numbers: of length 1, times `SCALE`, rounded. The products of two and
every partial sum of them stay below 2**24, where float32 holds each whole number, so that a matrix
product is exact on any machine, with any number of threads and rows at once; from rounding, a
cosine is wrong by a few 1e-4. Clusters are by k-means on the sphere with a fixed start and a fixed
number of rounds, near ones by cosine, as SemDeDup has them (Abbas et al. 2023, section 3).
"""

import numpy as np
from numpy.typing import NDArray

SCALE = 4000  # (SCALE + sqrt(d) / 2)**2 < 2**24 for d up to 8,000
ROUNDS = 10
ROWS = 2048  # whose products with all others are in memory at once

Vectors = NDArray[np.float32]  # of shape [n, d], whole numbers
Places = NDArray[np.int64]


def whole(embeddings: NDArray[np.floating]) -> Vectors:
    """Embeddings, of shape [n, d], as whole numbers of length about `SCALE`; zeros stay zeros."""
    wide = embeddings.astype(np.float64)
    lengths = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    found: Vectors = np.rint(wide / np.maximum(lengths, 1e-12) * SCALE).astype(np.float32)
    return found


def nearest(vectors: Vectors, centres: Vectors) -> Places:
    """The centre of the largest product with each vector, the first of equals."""
    starts = range(0, len(vectors), ROWS)
    found = [(vectors[a : a + ROWS] @ centres.T).argmax(axis=1) for a in starts]
    return np.concatenate([np.zeros(0, np.int64), *found])


def centres(sample: Vectors, count: int) -> Vectors:
    """The centres of `count` clusters, beginning with the first distinct vectors of a sample."""
    _, first = np.unique(sample, axis=0, return_index=True)
    found = sample[np.sort(first)[:count]]
    for _ in range(ROUNDS):
        own = nearest(sample, found)
        sums = np.zeros(found.shape, np.float64)
        np.add.at(sums, own, sample)
        some = np.bincount(own, minlength=len(found)) > 0
        found = np.where(some[:, None], whole(sums), found)
    return found


def divided(sample: Vectors, found: Vectors, most: int) -> Vectors:
    """Centres, each that has more than `most` vectors of a sample halved until none has."""
    own = nearest(sample, found)
    parts = [_halves(sample[own == i], found[i : i + 1], most) for i in range(len(found))]
    return np.concatenate([found[:0], *parts])


def _halves(members: Vectors, centre: Vectors, most: int) -> Vectors:
    if len(members) <= most:
        return centre
    two = centres(members, 2)
    own = nearest(members, two)
    if not 0 < own.sum() < len(own):  # all alike: nothing divides them
        return centre
    return np.concatenate([_halves(members[own == i], two[i : i + 1], most) for i in (0, 1)])


def close_pairs(vectors: Vectors, threshold: float) -> tuple[Places, Places]:
    """All pairs of vectors, by place, whose cosine is at least `threshold`; the lower first."""
    least = threshold * SCALE * SCALE
    found = [np.zeros((2, 0), np.int64)]
    for start in range(0, len(vectors), ROWS):
        products = vectors[start : start + ROWS] @ vectors[start:].T
        low, high = np.nonzero(np.triu(products >= least, 1))
        found.append(np.stack([low + start, high + start]))
    low, high = np.concatenate(found, axis=1)
    return low, high
