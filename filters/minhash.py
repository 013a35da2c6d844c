"""Near-duplicate texts: MinHash signatures, cut into bands (Broder 1997).

Two texts whose shingles have the Jaccard similarity s share at least one band key with probability
1 - (1 - s^rows)^bands. The defaults are FineWeb's (Penedo et al. 2024, arXiv 2406.17557, section
3.4): shingles of 5 words, 14 bands of 8 rows, so 0.56 at s = 0.7, 0.92 at 0.8, 0.9995 at 0.9.
"""

import hashlib
import sys
import unicodedata
from functools import cache

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

from shards import schema

# What the row of a text without words holds; it is no key of any text.
NO_KEY = 0
SEED = 1
# Shingles hashed at once: bounds the memory that one long text takes to 8 MB.
CHUNK = 8192


def signatures(
    texts: list[str], *, ngram: int = 5, bands: int = 14, rows: int = 8
) -> NDArray[np.uint64]:
    """The band keys of each text, of shape [len(texts), bands].

    Texts that share a key in any band are candidates for near-duplicates. Keys of different bands
    differ, so that a shuffle may group by key alone. A text without words is like no other: its
    row is `NO_KEY`, and whoever groups by key must leave that key out.
    """
    empty = MinHash(num_perm=bands * rows, seed=SEED, scheme="affine64")
    keys = [_band_keys(empty, shingles(text, ngram=ngram), bands) for text in texts]
    return np.array(keys, np.uint64).reshape(len(texts), bands)


def content_key(texts: list[str]) -> list[str]:
    """A digest of each text, equal for texts that differ in case, punctuation and space only.

    A text without words is like its very copies only.
    """
    return [schema.digest(" ".join(_words(text)) or text) for text in texts]


def jaccard(a: str, b: str, *, ngram: int = 5) -> float:
    """The shingles that two texts share of all that they have, 0 where there are none."""
    first, second = shingles(a, ngram=ngram), shingles(b, ngram=ngram)
    return len(first & second) / max(1, len(first | second))


def shingles(text: str, *, ngram: int = 5) -> set[bytes]:
    """The runs of `ngram` words; all words as one run if they are fewer; none without words."""
    words = _words(text)
    if not words:
        return set()
    count = max(1, len(words) - ngram + 1)
    return {" ".join(words[start : start + ngram]).encode() for start in range(count)}


def _words(text: str) -> list[str]:
    """The words of `text` as near-duplicates share them: NFKC, lower case, without punctuation."""
    return unicodedata.normalize("NFKC", text).lower().translate(_separators()).split()


@cache
def _separators() -> dict[int, str]:
    """Every punctuation mark and symbol of Unicode, to a space.

    Combining marks are none of these: cutting there would break words of Indic scripts.
    """
    characters = map(chr, range(sys.maxunicode + 1))
    return {ord(c): " " for c in characters if unicodedata.category(c)[0] in "PS"}


def _band_keys(empty: MinHash, runs: set[bytes], bands: int) -> list[int]:
    if not runs:
        return [NO_KEY] * bands
    signature = empty.copy()
    ordered = list(runs)
    for start in range(0, len(ordered), CHUNK):
        signature.update_batch(ordered[start : start + CHUNK])
    values = signature.hashvalues.astype("<u8").reshape(bands, -1)
    return [_key(band, row.tobytes()) for band, row in enumerate(values)]


def _key(band: int, row: bytes) -> int:
    state = hashlib.blake2b(row, digest_size=8, salt=band.to_bytes(8, "little"))
    # 0 is taken by NO_KEY.
    return int.from_bytes(state.digest(), "little") or 1
