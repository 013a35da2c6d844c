"""Near-duplicates: signatures against datasketch itself and against the law of banding."""

import random
from itertools import combinations

import numpy as np
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import minhash


def words(count: int, seed: str) -> list[str]:
    return [f"{seed}{i}" for i in range(count)]


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
    keys = minhash.signatures(texts)

    lsh = MinHashLSH(num_perm=112, params=(14, 8))
    oracle = []
    for i, text in enumerate(texts):
        sketch = MinHash(num_perm=112, seed=1, scheme="affine64")
        sketch.update_batch(sorted(minhash.shingles(text)))
        lsh.insert(i, sketch)
        oracle.append(sketch)
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
        assert minhash.jaccard(*texts) == pytest.approx(similarity, abs=1e-4)
        found += shared(minhash.signatures(texts), 0, 1)
    expected = 1 - (1 - similarity**8) ** 14
    # Four standard errors.
    assert abs(found / pairs - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5


def test_shape_follows_bands() -> None:
    keys = minhash.signatures(["one two three", "four"], ngram=2, bands=3, rows=2)
    assert keys.shape == (2, 3)
    assert keys.dtype == np.uint64
    assert minhash.signatures([]).shape == (0, 14)


def test_keys_are_the_same_everywhere() -> None:
    # Stored signatures of an earlier run must still meet those of a later one.
    keys = minhash.signatures(["The quick brown fox jumps over the lazy dog."])
    assert keys[0, :2].tolist() == [2424640366831651518, 5181076636827253595]


def test_bands_of_equal_values_have_keys_of_their_own() -> None:
    assert len(set(minhash.signatures(["a b c"], bands=14, rows=1)[0].tolist())) == 14
    assert minhash._key(0, b"row") != minhash._key(1, b"row")


def test_texts_without_words_have_no_keys() -> None:
    keys = minhash.signatures(["", "?! …", "\n", "word"])
    assert (keys[:3] == minhash.NO_KEY).all()
    assert (keys[3] != minhash.NO_KEY).all()


def test_short_texts_are_one_shingle() -> None:
    assert minhash.shingles("Four words, no more.") == {b"four words no more"}
    assert minhash.shingles("one two three", ngram=2) == {b"one two", b"two three"}
    keys = minhash.signatures(["four words no more", "four words no less"])
    assert not shared(keys, 0, 1)


def test_long_texts_are_hashed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(words(60, "w"))
    whole = minhash.signatures([text])
    monkeypatch.setattr(minhash, "CHUNK", 7)
    assert np.array_equal(minhash.signatures([text]), whole)


SAME = [
    "The ﬁle, re-read: “ÉTÉ” 5!",
    "the file re read\n\n été — + 5 €",
    "THE FILE; RE READ été (5)",
]


def test_case_punctuation_and_space_do_not_count() -> None:
    assert len(set(minhash.content_key(SAME))) == 1
    assert len(np.unique(minhash.signatures(SAME), axis=0)) == 1
    keys = minhash.content_key([SAME[0], "the file re read ete 5", "हिन्दी", "हन्द", "!", "?", "?"])
    assert len(set(keys)) == 6
    assert keys[-1] == keys[-2]


def test_jaccard_counts_shingles() -> None:
    assert minhash.jaccard("a b c d", "A, B, C, x", ngram=2) == 2 / 4
    assert minhash.jaccard("same words", "same words") == 1
    assert minhash.jaccard("", "") == 0


@settings(deadline=None)
@given(st.lists(st.text(), max_size=4))
def test_any_unicode_has_a_signature(texts: list[str]) -> None:
    keys = minhash.signatures(texts)
    assert keys.shape == (len(texts), 14)
    assert keys.dtype == np.uint64
    assert np.array_equal(minhash.signatures(texts[::-1])[::-1], keys)
    assert len(minhash.content_key(texts)) == len(texts)
