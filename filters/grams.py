"""Runs of n words that repeat within a document, over a whole batch at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filters.rules import Mask
from filters.words import Numbers, Words

# Odd, so that multiplying by it loses no bits modulo 2^64.
HASH = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Repeated:
    """The n-grams of some texts that stand more than once in their text.

    Attributes:
        n: the number of words.
        at: where they start, ascending, of shape [repeated n-grams].
        ids: a number for each; equal where two of one text are equal, and only there.
        counts: how often each stands in its text.
    """

    n: int
    at: Numbers
    ids: Numbers
    counts: Numbers


def repeated(words: Words, largest: int) -> Iterator[Repeated]:
    """The repeated n-grams for n = 2, 3, ... `largest`.

    A run of n + 1 words repeats only where its first and its last n words do, so that there is
    ever less to look at.
    """
    size = len(words.vocabulary)
    at = np.flatnonzero(words.texts[:-1] == words.texts[1:])
    ids = (words.texts[at] * size + words.codes[at]) * size + words.codes[at + 1]
    for n in range(2, largest + 1):
        if n > 2:
            next_to = np.flatnonzero(at[:-1] + 1 == at[1:])
            at, ids = at[next_to], ids[next_to] * size + words.codes[at[next_to] + n - 1]
        several = _may_repeat(ids)
        _, numbers, counts = np.unique(ids[several], return_inverse=True, return_counts=True)
        counts = counts[numbers]
        at, ids, counts = at[several][counts > 1], numbers[counts > 1], counts[counts > 1]
        yield Repeated(n, at, ids, counts)


def _may_repeat(ids: Numbers) -> Mask:
    """False only where a number stands once; sorting the others takes most of the time."""
    bits = max(len(ids), 1).bit_length() + 2
    buckets = ids.astype(np.uint64) * np.uint64(HASH) >> np.uint64(64 - bits)
    several: Mask = np.bincount(buckets.astype(np.int64))[buckets.astype(np.int64)] > 1
    return several


def top_characters(words: Words, grams: Repeated) -> Numbers:
    """The characters of each text's most frequent n-gram, times how often it stands there.

    Of equally frequent ones the first counts, one space is counted between words, and where none
    repeats the text's first n-gram is the most frequent one. 0 for a text of fewer words.
    """
    enough = words.counts >= grams.n
    first, most = words.starts[:-1].copy(), np.ones(len(enough), np.int64)
    texts = words.texts[grams.at]
    np.maximum.at(most, texts, grams.counts)
    top = np.flatnonzero(grams.counts == most[texts])[::-1]
    first[texts[top]] = grams.at[top]  # from the last to the first, which stays
    ends = _ends(words)
    lengths = ends[np.where(enough, first + grams.n, 0)] - ends[np.where(enough, first, 0)]
    return np.where(enough, (lengths + grams.n - 1) * most, 0)


def duplicate_characters(words: Words, grams: Repeated) -> Numbers:
    """For each text the characters in n-grams that stood earlier in it, each counted once.

    Read from the start: after one that is a duplicate the next one starts n words on.
    """
    starts = grams.at[_duplicates(grams)]
    ends = _ends(words)
    lengths = ends[starts + grams.n] - ends[starts]
    return np.bincount(words.texts[starts], lengths, len(words.counts)).astype(np.int64)


def _duplicates(grams: Repeated) -> list[int]:
    seen, found, free = set(), [], 0
    for i, (at, gram) in enumerate(zip(grams.at.tolist(), grams.ids.tolist(), strict=True)):
        if at < free:
            continue
        if gram in seen:
            found.append(i)
            free = at + grams.n
        seen.add(gram)
    return found


def _ends(words: Words) -> NDArray[np.int64]:
    """The characters of words before each word, and of all words."""
    return np.append(0, np.cumsum(words.lengths))
