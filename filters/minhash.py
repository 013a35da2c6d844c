"""Near-duplicate texts: MinHash signatures, cut into bands (Broder 1997).

Two texts whose shingles have the Jaccard similarity s share at least one band key with probability
1 - (1 - s^rows)^bands. The defaults are FineWeb's (Penedo et al. 2024, arXiv 2406.17557, section
3.4): shingles of 5 words, 14 bands of 8 rows, so 0.56 at s = 0.7, 0.92 at 0.8, 0.9995 at 0.9.

A word is hashed as a polynomial of its code points and a shingle as one of its words, both modulo
2^64, so that all texts of a batch are hashed at once by numpy. Signatures are those that
`datasketch.MinHash` with its scheme "affine32" makes of the upper halves of the shingles' hashes.
"""

import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards import schema

Hashes = NDArray[np.uint64]

# What the row of a text without words holds; it is no key of any text.
NO_KEY = 0
SEED = 1
# Characters hashed at once, unless a text is longer: what a step works on stays in the cache.
CHUNK = 1 << 18

# Odd, and so invertible modulo 2^64: a position's power is taken back by the inverse's.
LETTER = 0x9E3779B97F4A7C15
WORD = 0xD1342543DE82EF95
VALUE = 0xAF251AF3B0F025B5


@dataclass(frozen=True)
class Words:
    """The words of some texts, end to end.

    Attributes:
        hashes: of each word, of shape [words].
        starts: the place in `hashes` of each text's first word, and the end: [texts + 1].
    """

    hashes: Hashes
    starts: NDArray[np.int64]


def optimal_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """The bands and rows that datasketch takes for a wanted similarity.

    Of all that need no more than `permutations`, those with the least sum of the areas of false
    positives below the threshold and of false negatives above it (`datasketch.MinHashLSH`).
    """
    from datasketch import MinHashLSH  # which loads scipy, as MinHash does

    index = MinHashLSH(threshold=threshold, num_perm=permutations)
    return index.b, index.r


def band_keys(
    texts: list[str], *, ngram: int = 5, bands: int = 14, rows: int = 8, seed: int = SEED
) -> Hashes:
    """The band keys of each text, of shape [len(texts), bands].

    Texts that share a key in any band are candidates for near-duplicates. Keys of different bands
    differ, so that a shuffle may group by key alone. A text without words is like no other: its
    row is `NO_KEY`, and whoever groups by key must leave that key out.
    """
    parts = [_band_keys(words, ngram, bands, rows, seed) for words in _batches(texts)]
    return np.concatenate([np.zeros((0, bands), np.uint64), *parts])


def signatures(
    texts: list[str], *, ngram: int = 5, permutations: int = 112, seed: int = SEED
) -> NDArray[np.uint32]:
    """The MinHash values of each text, of shape [len(texts), permutations].

    They are datasketch's `MinHash(permutations, seed, scheme="affine32")` over the upper 32 bits
    of the text's shingle hashes; a text without words has the largest value throughout.
    """
    parts = [_signatures(words, ngram, permutations, seed) for words in _batches(texts)]
    return np.concatenate([np.zeros((0, permutations), np.uint32), *parts])


def content_keys(texts: list[str]) -> list[str]:
    """A digest of each text, equal for texts that differ in case, punctuation and space only.

    A text without words is like its very copies only.
    """
    keys: list[str] = []
    for words in _batches(texts):
        for start, end in zip(words.starts, words.starts[1:], strict=False):
            own = words.hashes[start:end].astype("<u8").tobytes()
            keys.append(schema.digest(own or texts[len(keys)]))
    return keys


def fingerprints(texts: list[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """A hash of the words of each text, `NO_KEY` without any, and how many there are: both [texts].

    Equal for texts that differ in case, punctuation and space only.
    """
    parts = [(_fingerprints(words), np.diff(words.starts)) for words in _batches(texts)]
    hashes, counts = zip(*parts, strict=True) if parts else ((), ())
    return (
        np.concatenate([np.zeros(0, np.uint64), *hashes]),
        np.concatenate([np.zeros(0, np.int64), *counts]),
    )


def shingles(text: str, *, ngram: int = 5) -> Hashes:
    """The distinct hashes of the runs of `ngram` words, sorted.

    A text of fewer words has them all as one run, one without words has none.
    """
    return np.unique(_shingles(_words([text]), ngram)[0])


def jaccard(a: NDArray[Any], b: NDArray[Any]) -> float:
    """What two sets of distinct values share of all that they have, 0 where there is nothing."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(1, len(a) + len(b) - shared)


def _batches(texts: list[str]) -> Iterator[Words]:
    """The words of consecutive texts of about `CHUNK` characters."""
    first = held = 0
    for i, text in enumerate(texts):
        held += len(text)
        if held >= CHUNK:
            yield _words(texts[first : i + 1])
            first, held = i + 1, 0
    if first < len(texts):
        yield _words(texts[first:])


def _words(texts: list[str]) -> Words:
    """The words as near-duplicates share them: NFKC, lower case, without punctuation."""
    plain = [unicodedata.normalize("NFKC", text).lower() for text in texts]
    joined = " ".join([*plain, ""]).encode("utf-32-le")
    codes = np.frombuffer(joined, np.uint32)
    inside = ~_separators()[codes]
    before = np.concatenate([[False], inside[:-1]])
    starts = np.flatnonzero(inside & ~before)
    ends = np.cumsum([0, *(len(text) + 1 for text in plain)])
    return Words(_sums(codes * inside, starts, LETTER), np.searchsorted(starts, ends))


def _sums(values: NDArray[Any], starts: NDArray[np.int64], base: int) -> Hashes:
    """Mixed sums of value times base^k over the runs that begin at `starts`, k from there."""
    if not len(starts):
        return np.zeros(0, np.uint64)
    sums = np.add.reduceat(values * _powers(base, len(values)), starts)
    return _mixed(sums * _powers(pow(base, -1, 1 << 64), len(values))[starts])


def _fingerprints(words: Words) -> Hashes:
    found = np.full(len(words.starts) - 1, NO_KEY, np.uint64)
    worded = np.flatnonzero(np.diff(words.starts))
    found[worded] = np.maximum(_sums(words.hashes, words.starts[worded], WORD), 1)
    return found


def _shingles(words: Words, ngram: int) -> tuple[Hashes, NDArray[np.int64]]:
    """The hashes of all texts' shingles end to end, and where each text's begin, and the end."""
    counts = np.diff(words.starts)
    runs = np.where(counts > 0, np.maximum(counts - ngram + 1, 1), 0)
    starts = np.concatenate([[0], np.cumsum(runs)])
    first = np.arange(starts[-1]) + np.repeat(words.starts[:-1] - starts[:-1], runs)
    last = np.repeat(words.starts[1:], runs)
    padded = np.append(words.hashes, np.zeros(ngram, np.uint64))
    found = np.zeros(starts[-1], np.uint64)
    for k, power in enumerate(_powers(WORD, ngram)):
        # Only a text that is shorter than a run ends within it.
        found += np.where(first + k < last, padded[first + k], np.uint64(0)) * power
    return _mixed(found), starts


def _signatures(words: Words, ngram: int, permutations: int, seed: int) -> NDArray[np.uint32]:
    hashes, starts = _shingles(words, ngram)
    found = np.full((permutations, len(starts) - 1), 2**32 - 1, np.uint32)
    worded = np.flatnonzero(np.diff(starts))
    if len(worded):
        mixed = _finalised((hashes >> np.uint64(32)).astype(np.uint32))
        values, begins = np.empty_like(mixed), starts[worded]
        for row, (a, b) in enumerate(zip(*_permutations(permutations, seed), strict=True)):
            np.multiply(mixed, a, out=values)
            values += b
            found[row, worded] = np.minimum.reduceat(values, begins)
    return np.ascontiguousarray(found.T)


def _band_keys(words: Words, ngram: int, bands: int, rows: int, seed: int) -> Hashes:
    values = _signatures(words, ngram, bands * rows, seed).astype(np.uint64)
    values = values.reshape(-1, bands, rows)
    sums = (values * _powers(VALUE, rows)).sum(axis=2, dtype=np.uint64)
    keys = _mixed(sums + _mixed(np.arange(1, bands + 1, dtype=np.uint64)))
    keys[keys == NO_KEY] = 1
    keys[np.diff(words.starts) == 0] = NO_KEY
    return keys


@cache
def _permutations(permutations: int, seed: int) -> NDArray[np.uint32]:
    """Datasketch's factors and summands, of shape [2, permutations]."""
    from datasketch import MinHash

    drawn: NDArray[np.uint32] = MinHash(permutations, seed=seed, scheme="affine32").permutations
    return drawn


@cache
def _separators() -> NDArray[np.bool_]:
    """Of every code point, whether it is white space, a punctuation mark or a symbol.

    Combining marks are none of these: cutting there would break words of Indic scripts.
    """
    characters = map(chr, range(sys.maxunicode + 1))
    return np.array([c.isspace() or unicodedata.category(c)[0] in "PS" for c in characters])


def _powers(base: int, count: int) -> Hashes:
    """`base`^0, `base`^1, ... modulo 2^64; of `count` numbers, those of a chunk kept."""
    if count <= 2 * CHUNK:
        return _chunk_of_powers(base)[:count]
    return _all_powers(base, count)


@cache
def _chunk_of_powers(base: int) -> Hashes:
    return _all_powers(base, 2 * CHUNK)


def _all_powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


def _mixed(values: Hashes) -> Hashes:
    """MurmurHash3's finaliser for 64 bits (Appleby 2011): every bit depends on every bit."""
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xFF51AFD7ED558CCD)
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def _finalised(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """MurmurHash3's finaliser for 32 bits, with which datasketch begins."""
    values = values ^ (values >> np.uint32(16))
    values = values * np.uint32(0x85EBCA6B)
    values = values ^ (values >> np.uint32(13))
    values = values * np.uint32(0xC2B2AE35)
    return values ^ (values >> np.uint32(16))
