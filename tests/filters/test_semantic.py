"""Whole numbers for embeddings, clusters that no order changes, and all near pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import semantic
from filters.semantic import centres, close_pairs, divided, nearest, whole


def clouds(count: int, each: int, d: int = 64, seed: int = 1) -> np.ndarray:
    """Points around some directions, those of a direction after each other, as float16."""
    draw = np.random.default_rng(seed)
    middles = draw.normal(size=(count, d))
    points = np.repeat(middles, each, axis=0) + 0.05 * draw.normal(size=(count * each, d))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float16)


@given(st.integers(1, 1024), st.integers(0, 99))
def test_products_are_those_of_whole_numbers_in_any_order(d: int, seed: int):
    a, b = (whole(np.random.default_rng(seed + i).normal(size=(3, d))) for i in (0, 100))
    exact = a.astype(np.int64) @ b.T.astype(np.int64)
    order = np.random.default_rng(seed).permutation(d)
    assert np.array_equal(a @ b.T, exact)
    assert np.array_equal(a[:, order] @ b[:, order].T, exact)
    assert (np.abs(a).astype(np.int64) @ np.abs(a).T.astype(np.int64)).max() < 2**24


def test_products_are_near_cosines():
    points = clouds(20, 5, d=512)
    wide = points.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    assert np.abs(whole(points) @ whole(points).T / semantic.SCALE**2 - wide @ wide.T).max() < 1e-3


def test_nothing_is_near_to_nothing():
    points = whole(np.zeros((3, 8), np.float16))
    assert not points.any()
    assert len(close_pairs(points, 0.5)[0]) == 0


def test_clusters_are_the_clouds():
    points = whole(clouds(5, 40))
    order = np.random.default_rng(2).permutation(len(points))
    own = np.empty(len(points), int)
    own[order] = nearest(points[order], centres(points[order], 12))
    clusters = [set(own[i * 40 : (i + 1) * 40]) for i in range(5)]
    assert all(a.isdisjoint(b) for i, a in enumerate(clusters) for b in clusters[:i])


def test_a_large_cluster_is_halved_until_none_is_large():
    points = whole(clouds(8, 25))
    one = centres(points, 1)
    found = divided(points, one, 30)
    assert 7 <= len(found) <= 16
    assert np.bincount(nearest(points, found)).max() <= 60
    same = np.repeat(points[:1], 100, axis=0)
    assert len(divided(same, same[:1], 10)) == 1


@pytest.mark.parametrize("rows", [3, 1000])
def test_pairs_are_all_that_are_near(rows: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(semantic, "ROWS", rows)
    points = whole(clouds(6, 4))
    low, high = close_pairs(points, 0.8)
    every = {(i, j) for i in range(24) for j in range(i + 1, 24) if i // 4 == j // 4}
    assert set(zip(low.tolist(), high.tolist(), strict=True)) == every
