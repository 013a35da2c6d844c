"""Near-duplicates: signatures against datasketch itself and against the law of banding."""

import random
import unicodedata
from itertools import combinations

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from datasketch.lsh import _optimal_param
from hypothesis import given
from hypothesis import strategies as st

from filters import minhash


def words(count: int, seed: str) -> list[str]:
    return [f"{seed}{i}" for i in range(count)]


MASK = 2**64 - 1


def mixed(value: int) -> int:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ value >> 33) * factor & MASK
    return value ^ value >> 33


def polynomial(values: list[int], base: int) -> int:
    return mixed(sum(value * pow(base, k, 2**64) for k, value in enumerate(values)) & MASK)


def shingle_hash(shingle: bytes) -> int:
    """A hash function for datasketch: the shingle hash of `filters.minhash`, word by word."""
    hashes = [polynomial(list(map(ord, word)), minhash.LETTER) for word in shingle.decode().split()]
    return polynomial(hashes, minhash.WORD) >> 32


def plain_words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).lower()
    return "".join(" " if unicodedata.category(c)[0] in "PS" else c for c in folded).split()


def plain_shingles(text: str, ngram: int = 5) -> set[bytes]:
    found = plain_words(text)
    runs = range(max(1, len(found) - ngram + 1) if found else 0)
    return {" ".join(found[start : start + ngram]).encode() for start in runs}


def sketch(text: str, permutations: int = 112, seed: int = 1, ngram: int = 5) -> MinHash:
    made = MinHash(permutations, seed=seed, scheme="affine32", hashfunc=shingle_hash)
    if shingles := sorted(plain_shingles(text, ngram)):
        made.update_batch(shingles)
    return made


def alike(a: str, b: str, ngram: int = 5) -> float:
    return minhash.jaccard(minhash.shingles(a, ngram=ngram), minhash.shingles(b, ngram=ngram))


TEXTS = [
    "",
    "…",
    "word",
    "one two three four",
    "The ﬁle, re-read: “ÉTÉ” 5!",
    "हिन्दी के शब्द",
    "字 " * 9,
]


@given(
    st.lists(st.text() | st.sampled_from(TEXTS), max_size=5),
    st.integers(1, 6),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_signatures_are_those_of_datasketch(
    texts: list[str], ngram: int, permutations: int, seed: int
) -> None:
    found = minhash.signatures(texts, ngram=ngram, permutations=permutations, seed=seed)
    expected = [sketch(text, permutations, seed, ngram).hashvalues for text in texts]
    assert found.tolist() == [values.tolist() for values in expected]
    assert [len(minhash.shingles(text, ngram=ngram)) for text in texts] == [
        len(plain_shingles(text, ngram)) for text in texts
    ]


def test_texts_of_several_batches_are_hashed_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(words(60, f"w{i}")) for i in range(5)]
    whole = minhash.signatures(texts), minhash.content_keys(texts)
    for size in (1, 500, 700):
        monkeypatch.setattr(minhash, "CHUNK", size)
        minhash._chunk_of_powers.cache_clear()
        assert np.array_equal(minhash.signatures(texts), whole[0])
        assert minhash.content_keys(texts) == whole[1]
    minhash._chunk_of_powers.cache_clear()


@pytest.mark.parametrize(("threshold", "permutations"), [(0.5, 64), (0.7, 128), (0.8, 256)])
def test_bands_of_a_threshold_are_datasketchs(threshold: float, permutations: int) -> None:
    best = _optimal_param(threshold, permutations, 0.5, 0.5)
    assert minhash.optimal_bands(threshold, permutations) == best


def edited(text: list[str], edits: int, seed: str) -> str:
    """`text` with `edits` words replaced, so far apart that each costs ngram shingles."""
    changed = list(text)
    for k in range(edits):
        changed[5 + k * (len(text) - 10) // edits] = f"new{seed}{k}"
    return " ".join(changed)


def shared(keys: np.ndarray, i: int, j: int) -> bool:
    return bool((keys[i] == keys[j]).any())


def test_candidates_are_those_of_datasketch() -> None:
    rng = random.Random(7)
    base = words(104, "w")
    texts = [edited(base, rng.randrange(1, 9), str(i)) for i in range(40)]
    keys = minhash.band_keys(texts)

    lsh = MinHashLSH(num_perm=112, params=(14, 8))
    oracle = [sketch(text) for text in texts]
    for i, each in enumerate(oracle):
        lsh.insert(i, each)
    expected = {(i, j) for i, s in enumerate(oracle) for j in lsh.query(s) if i < j}

    found = {(i, j) for i, j in combinations(range(len(texts)), 2) if shared(keys, i, j)}
    assert found == expected
    assert 0 < len(found) < 40 * 39 / 2


@pytest.mark.parametrize(("edits", "similarity"), [(11, 0.8018), (16, 0.7241), (25, 0.6)])
def test_detection_follows_the_law_of_banding(edits: int, similarity: float) -> None:
    pairs, found = 400, 0
    for k in range(pairs):
        base = words(504, f"p{edits}q{k}x")
        texts = [" ".join(base), edited(base, edits, str(k))]
        assert alike(*texts) == pytest.approx(similarity, abs=1e-4)
        found += shared(minhash.band_keys(texts), 0, 1)
    expected = 1 - (1 - similarity**8) ** 14
    # Four standard errors.
    assert abs(found / pairs - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5


def test_shape_follows_bands() -> None:
    keys = minhash.band_keys(["one two three", "four"], ngram=2, bands=3, rows=2)
    assert keys.shape == (2, 3)
    assert keys.dtype == np.uint64
    assert minhash.band_keys([]).shape == (0, 14)


def test_keys_are_the_same_everywhere() -> None:
    # Stored signatures of an earlier run must still meet those of a later one.
    keys = minhash.band_keys(["The quick brown fox jumps over the lazy dog."])
    assert keys[0, :2].tolist() == [391807027801604423, 215988012059972539]


def test_bands_of_equal_values_have_keys_of_their_own() -> None:
    assert len(set(minhash.band_keys(["a b c"], bands=14, rows=1)[0].tolist())) == 14


def test_texts_without_words_have_no_keys() -> None:
    keys = minhash.band_keys(["", "?! …", "\n", "word"])
    assert (keys[:3] == minhash.NO_KEY).all()
    assert (keys[3] != minhash.NO_KEY).all()


def test_short_texts_are_one_shingle() -> None:
    assert len(minhash.shingles("Four words, no more.")) == 1
    assert len(minhash.shingles("one two three", ngram=2)) == 2
    keys = minhash.band_keys(["four words no more", "four words no less"])
    assert not shared(keys, 0, 1)


SAME = [
    "The ﬁle, re-read: “ÉTÉ” 5!",
    "the file re read\n\n été — + 5 €",
    "THE FILE; RE READ été (5)",
]


def test_case_punctuation_and_space_do_not_count() -> None:
    assert len(set(minhash.content_keys(SAME))) == 1
    assert len(np.unique(minhash.band_keys(SAME), axis=0)) == 1
    keys = minhash.content_keys([SAME[0], "the file re read ete 5", "हिन्दी", "हन्द", "!", "?", "?"])
    assert len(set(keys)) == 6
    assert keys[-1] == keys[-2]


def test_jaccard_counts_shingles() -> None:
    assert alike("a b c d", "A, B, C, x", ngram=2) == 2 / 4
    assert alike("same words", "same words") == 1
    assert alike("", "") == 0


@given(st.lists(st.text(), max_size=4))
def test_any_unicode_has_a_signature(texts: list[str]) -> None:
    keys = minhash.band_keys(texts)
    assert keys.shape == (len(texts), 14)
    assert keys.dtype == np.uint64
    assert np.array_equal(minhash.band_keys(texts[::-1])[::-1], keys)
    assert len(minhash.content_keys(texts)) == len(texts)
