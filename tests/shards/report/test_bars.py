import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shards import measures
from shards.report.bars import count_edges, is_out, measure_edges

values = st.floats(-(2.0**40), 2.0**40, width=32) | st.integers(0, 10**6).map(np.float32)


@given(
    st.lists(values, min_size=1), st.none() | st.floats(0, 1) | st.integers(0, 99), st.booleans()
)
def test_bins_part_what_is_kept_from_what_is_not(
    measured: list[float], limit: float | None, least: bool
) -> None:
    near = [] if limit is None else [limit, limit + 1, limit * 1.001, limit * 0.999]
    measured = [*measured, *near]
    found = measures.Distribution()
    found.add(np.array(measured, np.float32))
    distinct, counts = found.counts()
    exact = None if limit is None else float(measures.rounded(np.array([limit], np.float32))[0])
    bound = measures.Bound("x", **{"min" if least else "max": exact})
    edges = measure_edges(distinct, counts, bound)
    assert np.all(np.diff(edges) > 0)
    assert len(edges) < 200
    heights = np.histogram(distinct, edges, weights=counts)[0]
    assert heights.sum() == len(measured)
    out = [is_out(low, high, bound) for low, high in itertools.pairwise(edges.tolist())]
    assert heights[out].sum() == counts[bound.broken(distinct)].sum()


@given(st.lists(st.integers(0, 10**7), min_size=1))
def test_bins_hold_every_count_once(values: list[int]) -> None:
    edges = count_edges(np.array(values))
    assert np.all(np.diff(edges) > 0)
    assert np.histogram(values, edges)[0].sum() == len(values)
