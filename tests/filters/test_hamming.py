"""Close hashes: all that a plain loop over pairs finds, and little work where there are many."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import hamming
from filters.hamming import blocks, close_pairs, matches

hashes = st.lists(
    st.builds(
        lambda base, flips: base ^ sum({1 << bit for bit in flips}),
        st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]),
        st.lists(st.integers(0, 63), max_size=9),
    ),
    max_size=25,
)


def array(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint64)


def pairs(values: list[int], distance: int) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, j in combinations(range(len(values)), 2)
        if (values[i] ^ values[j]).bit_count() <= distance
    ]


@pytest.mark.parametrize("run", [0.001, 1, 32])
@given(values=hashes, distance=st.integers(0, 10))
def test_pairs_are_those_of_a_plain_loop(values: list[int], distance: int, run: float):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "RUN", run)  # so that one to three blocks are chosen
        low, high = close_pairs(array(values), distance)
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == pairs(values, distance)


@given(hashes, st.integers(0, 6), st.integers(0, 6))
def test_some_bits_may_have_to_be_equal(values: list[int], distance: int, block: int):
    within = blocks(7)[block]
    low, high = close_pairs(array(values), distance, within)
    expected = [(i, j) for i, j in pairs(values, distance) if not (values[i] ^ values[j]) & within]
    assert list(zip(low.tolist(), high.tolist(), strict=True)) == expected


@pytest.mark.parametrize("count", [1, 7, 9, 64])
def test_blocks_are_all_bits_in_like_shares(count: int):
    found = blocks(count, within=0b1011)
    assert sum(found) == 2**64 - 1 - 0b1011
    sizes = {block.bit_count() for block in found}
    assert max(sizes) - min(sizes) <= 1


def test_a_cloud_of_near_hashes_is_not_compared_in_all_pairs():
    """All hashes within two bits of 0, about 2,000: two million pairs within four bits."""
    cloud = sorted({1 << a | 1 << b for a, b in combinations(range(64), 2)})
    low, high = close_pairs(array(cloud), 4)
    assert len(low) <= len(cloud) * hamming.WINDOW * len(blocks(5))
    assert len(set(low) | set(high)) == len(cloud)  # but nobody is left alone


@given(hashes, hashes, st.integers(0, 8))
def test_matches_are_those_of_a_plain_loop(asked: list[int], known: list[int], distance: int):
    found = zip(
        *(ends.tolist() for ends in matches(array(asked), array(known), distance)), strict=True
    )
    assert list(found) == [
        (i, j)
        for i, one in enumerate(asked)
        for j, other in enumerate(known)
        if (one ^ other).bit_count() <= distance
    ]


def test_many_matches_are_looked_at_in_pieces():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamming, "COMPARISONS", 10)
        at, _ = matches(np.arange(30, dtype=np.uint64), np.arange(30, dtype=np.uint64), 0)
    assert at.tolist() == list(range(30))
