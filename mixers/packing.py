"""Documents into training sequences of a fixed number of tokens and a bounded number of images."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

OPEN_SEQUENCES = 64  # how many unfinished sequences are looked through for room


def order_keys(ids: Sequence[str], seed: int, epoch: int) -> NDArray[np.uint64]:
    """A keyed permutation: documents sorted by these stand in an order that only ids decide."""
    key = f"{seed}:{epoch}".encode()
    keys = [blake2b(i.encode(), key=key, digest_size=8).digest() for i in ids]
    return np.frombuffer(b"".join(keys), dtype=">u8").astype(np.uint64)


def partitions(keys: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """The partition of each key: equal slices of the key space, in order."""
    return ((keys >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def cut(
    tokens: Sequence[int], images: Sequence[int], *, seq_len: int, max_images: int
) -> list[tuple[int, int]]:
    """Cut a document at part boundaries into the fewest pieces that each fit a sequence.

    `tokens` and `images` are those of its parts, and every part must fit alone. A piece costs one
    token more than its parts, for the end of the document. Returns [first, last) part indices.
    """
    pieces, first, used, shown = [], 0, 1, 0
    for i, (cost, count) in enumerate(zip(tokens, images, strict=True)):
        if cost + 1 > seq_len:
            raise ValueError(f"a part of {cost} tokens does not fit a sequence of {seq_len}")
        if used + cost > seq_len or shown + count > max_images:
            pieces.append((first, i))
            first, used, shown = i, 1, 0
        used, shown = used + cost, shown + count
    return [*pieces, (first, len(tokens))] if len(tokens) else []


def pack(
    tokens: NDArray[np.int64], images: NDArray[np.int64], *, seq_len: int, max_images: int
) -> NDArray[np.int64]:
    """The sequence of each piece: first fit, in the order given, over a window of open sequences.

    Sequences are numbered in the order in which they are opened. The window bounds the work per
    piece; the fullest open sequence leaves it first.
    """
    assigned = np.empty(len(tokens), dtype=np.int64)
    numbers = np.empty(0, dtype=np.int64)
    room = np.empty((0, 2), dtype=np.int64)  # tokens and images left in each open sequence
    opened = 0
    for i, cost in enumerate(np.stack([tokens, images], axis=1)):
        fits = np.flatnonzero((room >= cost).all(axis=1))
        if not len(fits):
            if len(numbers) == OPEN_SEQUENCES:
                fullest = int(room[:, 0].argmin())
                numbers, room = np.delete(numbers, fullest), np.delete(room, fullest, axis=0)
            numbers = np.append(numbers, opened)
            room = np.append(room, [[seq_len, max_images]], axis=0)
            fits, opened = np.array([len(numbers) - 1]), opened + 1
        room[fits[0]] -= cost
        assigned[i] = numbers[fits[0]]
    return assigned
