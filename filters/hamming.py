"""Which of many 64-bit hashes differ in few bits, without a comparison of all pairs.

Of hashes that differ in `d` bits, cut into `d + k` blocks, at least `k` blocks are equal (Manku et
al. 2007, "Detecting Near-Duplicates for Web Crawling", section 3). So hashes are sorted by each
choice of `k` blocks, and only those that then stand together are compared, in all of their bits.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

BITS = 64
RUN = 32  # hashes that agree in the chosen blocks, expected of random ones: more blocks if more
MOST_TOGETHER = 3  # blocks that are chosen at once
# Hashes after it, in order, that each one is compared with among those that agree: they are few
# where hashes are random, but blank pictures and their like have whole clouds of near hashes.
WINDOW = 256


def blocks(count: int, within: int = 0) -> list[int]:
    """Masks of `count` blocks of the bits that are not in the mask `within`, of like size."""
    free = [bit for bit in range(BITS) if not within >> bit & 1]
    return [sum(1 << bit for bit in free[start::count]) for start in range(count)]


def distances(a: Hashes, b: Hashes) -> NDArray[np.uint8]:
    """In how many bits hashes differ."""
    found: NDArray[np.uint8] = np.bitwise_count(a ^ b)
    return found


def close_pairs(hashes: Hashes, distance: int, within: int = 0) -> tuple[Places, Places]:
    """The pairs of hashes, by place, that differ in no more than `distance` bits.

    They are sorted, each pair once and its lower place first.

    Args:
        hashes: in any order, in which those of a large crowd are compared.
        distance: in bits.
        within: a mask of bits that have to be equal.

    All pairs are found, unless more than `WINDOW` hashes agree in the bits that are sorted by.
    """
    found = [_together(hashes, mask, distance) for mask in _sortings(hashes, distance, within)]
    low, high = np.sort(np.concatenate(found, axis=1), axis=0)
    pairs = np.unique(low * len(hashes) + high)
    return pairs // max(1, len(hashes)), pairs % max(1, len(hashes))


def _sortings(hashes: Hashes, distance: int, within: int) -> Iterator[int]:
    """Masks of the bits to sort by, so that all close pairs agree in those of one."""
    _, sizes = np.unique(hashes & np.uint64(within), return_counts=True)
    largest, free = max(sizes, default=0), BITS - within.bit_count()
    for together in range(MOST_TOGETHER + 1):
        if largest <= RUN * 2 ** (free * together / (distance + together or 1)):
            break
    for chosen in combinations(blocks(distance + together, within), together):
        yield within | sum(chosen)


def _together(hashes: Hashes, mask: int, distance: int) -> Places:
    """Close pairs among hashes that agree in `mask`, of shape [2, pairs]."""
    key = hashes & np.uint64(mask)
    order = np.argsort(key, kind="stable")
    key, sorted_hashes = key[order], hashes[order]
    at, found = np.arange(len(key)), [np.zeros((2, 0), np.int64)]
    for back in range(1, WINDOW + 1):
        at = at[at + back < len(key)]
        at = at[key[at] == key[at + back]]
        if not len(at):
            break
        close = at[distances(sorted_hashes[at], sorted_hashes[at + back]) <= distance]
        found.append(np.stack([order[close], order[close + back]]))
    return np.concatenate(found, axis=1)


def matches(asked: Hashes, known: Hashes, distance: int) -> tuple[Places, Places]:
    """The places of hashes asked for and of known ones that differ in at most `distance` bits.

    Sorted, each pair once. What has a block of bits in common is compared: at a distance of 8 one
    in fifteen of the known ones with each that is asked for.
    """
    found = [np.zeros((2, 0), np.int64)]
    for mask in blocks(distance + 1):
        key, wanted = known & np.uint64(mask), asked & np.uint64(mask)
        order = np.argsort(key, kind="stable")
        first, last = (np.searchsorted(key[order], wanted, side) for side in ("left", "right"))
        for some in _chunks(last - first):
            at, to = _expanded(some, first, last)
            to = order[to]
            close = distances(asked[at], known[to]) <= distance
            found.append(np.stack([at[close], to[close]]))
    pairs = np.unique(np.array([len(known), 1]) @ np.concatenate(found, axis=1))
    return pairs // max(1, len(known)), pairs % max(1, len(known))


COMPARISONS = 1 << 22  # at once


def _chunks(counts: Places) -> Iterator[Places]:
    """The places of consecutive counts whose sums are about `COMPARISONS`."""
    which = np.cumsum(counts) // COMPARISONS
    for number in np.unique(which):
        yield np.flatnonzero(which == number)


def _expanded(some: Places, first: Places, last: Places) -> tuple[Places, Places]:
    """Each of `some` with every place from its first to its last."""
    counts = (last - first)[some]
    owner = np.repeat(some, counts)
    starts = np.repeat(first[some] - (np.cumsum(counts) - counts), counts)
    return owner, np.arange(len(owner)) + starts
