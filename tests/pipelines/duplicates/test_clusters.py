"""Connected components against a plain union-find, and their rounds against the logarithm."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.duplicates import clusters

Edges = list[tuple[int, int]]

edges = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=40).map(
    lambda pairs: [(a, b) for a, b in pairs if a != b]
)


def table(node: np.ndarray, other: np.ndarray) -> pa.Table:
    return pa.table([node, other], schema=clusters.EDGE)


def both(node: np.ndarray, other: np.ndarray) -> pa.Table:
    return table(np.concatenate([node, other]), np.concatenate([other, node]))


def components(pairs: Edges) -> tuple[dict[int, int], int]:
    """The least of each node's component, and the rounds that it took to settle."""
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    graph, rounds = both(ends[:, 0], ends[:, 1]), 0
    while clusters.unsettled(graph):
        hung = table(*clusters.large_star(graph))
        graph, rounds = both(*clusters.small_star(hung)), rounds + 1
    rows = zip(*(graph[name].to_pylist() for name in graph.column_names), strict=True)
    hangs = {node: other for node, other in rows if other < node}
    return {node: hangs.get(node, node) for node in ends.ravel().tolist()}, rounds


def union_find(pairs: Edges) -> dict[int, int]:
    parent = {node: node for pair in pairs for node in pair}

    def root(node: int) -> int:
        return node if parent[node] == node else root(parent[node])

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return {node: root(node) for node in parent}


@given(edges)
def test_nodes_name_the_least_of_their_component(pairs: Edges):
    assert components(pairs)[0] == union_find(pairs)


@given(edges)
def test_a_forest_connects_the_same_nodes_with_as_few_edges(pairs: Edges):
    ends = np.array(pairs, np.int64).reshape(-1, 2)
    found = clusters.forest(ends[:, 0], ends[:, 1])
    left = list(zip(*(found[name].to_pylist() for name in found.column_names), strict=True))
    assert union_find(left) == union_find(pairs)
    assert len(left) == len(union_find(pairs)) - len(set(union_find(pairs).values()))


def test_a_forest_of_a_long_chain_settles():
    names = np.random.default_rng(1).permutation(1000)
    found = clusters.forest(names[:-1], names[1:])
    assert set(found["other"].to_pylist()) == {0}
    assert found.num_rows == 999


@given(edges, st.randoms(use_true_random=False))
def test_order_does_not_matter(pairs: Edges, order: object):
    shuffled = [pair[::-1] for pair in pairs]
    order.shuffle(shuffled)
    assert components(shuffled) == components(pairs)


@pytest.mark.parametrize("length", [10, 100, 1000, 10_000])
def test_a_chain_takes_rounds_of_its_logarithm(length: int):
    names = np.random.default_rng(length).permutation(length)
    for chain in (np.arange(length), names):
        pairs = list(zip(chain[:-1].tolist(), chain[1:].tolist(), strict=True))
        found, rounds = components(pairs)
        assert set(found.values()) == {0}
        assert rounds <= np.log2(length) + 1


def test_edges_never_grow():
    draw = np.random.default_rng(1)
    graph = both(draw.integers(0, 500, 800), draw.integers(501, 1000, 800))
    before = 800
    while clusters.unsettled(graph):
        graph = both(*clusters.small_star(table(*clusters.large_star(graph))))
        now = len({tuple(sorted(row.values())) for row in graph.to_pylist()})
        assert now <= before
        before = now
