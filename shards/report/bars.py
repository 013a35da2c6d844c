"""Histograms: their bins, bars and bounds, in pixels."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.measures import Bound
from shards.report.formats import short
from shards.report.stages import Table

WIDTH, HEIGHT = 320, 120  # of a histogram's bars
BINS = 24
OUTLIERS = 0.005  # of the values at either end, which the first and the last bin reach out to
MOST_COUNT = 1 << 30


def histograms(values: Mapping[str, NDArray[np.int64]]) -> list[Table]:
    """One of counts for each corpus that has any."""
    return [plot for name, v in values.items() for plot in histogram(name, v, count_edges(v))]


def histogram(
    corpus: str, values: NDArray[Any], edges: NDArray[np.float64], bound: Bound | None = None
) -> list[Table]:
    """The histogram of a corpus; none of no values."""
    if not len(values):
        return []
    counts = np.histogram(values, edges)[0].tolist()
    plot = bars(corpus, counts, edges.tolist(), bound)
    return [plot | {"summary": f"{len(values):,} values, median {short(np.median(values))}"}]


def count_edges(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """A bin for each number where they are small, else half or quarter octaves."""
    smallest, high = int(values.min(initial=1 << 40)), int(values.max(initial=0))
    if high <= 32:
        return np.arange(0, high + 2, dtype=np.float64)
    low, high = max(smallest, 1), high + 1
    per_octave = 2 if high > 32 * low else 4
    first = np.floor(per_octave * np.log2(low))
    steps = np.arange(first, per_octave * np.log2(high) + 1) / per_octave
    edges: NDArray[np.float64] = np.unique(np.floor(2**steps))
    return edges if smallest > 0 else np.append(0, edges)


def score_edges(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bins of 0.02, or of 0.05 where the values spread wide."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    step = 0.02 if high - low < 0.5 else 0.05
    edges: NDArray[np.float64] = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
    return np.round(edges, 2) if len(edges) > 1 else np.array([0, step])


def measure_edges(
    values: NDArray[np.float32], counts: NDArray[np.int64], bound: Bound
) -> NDArray[np.float64]:
    """Bins for finite values that part those within the bound from the others.

    `values` ascend. Whole numbers have the bins of `count_edges`.
    """
    limits = [limit for limit in (bound.min, bound.max) if limit is not None]
    whole = bool(np.all(values == np.floor(values)))
    if whole and values[0] >= 0 and values[-1] < MOST_COUNT:
        inside = [limit for limit in limits if 0 <= limit < MOST_COUNT]
        edges = count_edges(np.append(values, inside).astype(np.int64))
    else:
        edges = _equal_edges(values, counts, limits)
    cuts = [] if bound.min is None else [bound.min]
    if bound.max is not None:
        cuts.append(bound.max + 1 if whole else float(np.nextafter(bound.max, np.inf)))
    parted: NDArray[np.float64] = np.unique(
        [*edges, *(cut for cut in cuts if edges[0] < cut < edges[-1])]
    )
    return parted


def _equal_edges(
    values: NDArray[np.float32], counts: NDArray[np.int64], limits: Sequence[float]
) -> NDArray[np.float64]:
    """About as many round bins over the values but the outliers, and over the limits."""
    upto = np.cumsum(counts)
    ends = values[np.searchsorted(upto, upto[-1] * np.array([OUTLIERS, 1 - OUTLIERS]))]
    low, high = min(float(ends[0]), *limits, np.inf), max(float(ends[1]), *limits, -np.inf)
    step = round_step((high - low) / BINS or abs(high) or 1.0)
    first = np.floor(low / step)
    last = max(np.ceil(high / step), first + 1)
    edges: NDArray[np.float64] = np.round(np.arange(first, last + 1) * step, 10)
    edges[0], edges[-1] = min(edges[0], values[0]), max(edges[-1], values[-1])
    return edges


def bars(
    corpus: str, counts: Sequence[int], edges: Sequence[float], bound: Bound | None = None
) -> Table:
    """Bars of equal width, one a bin, in pixels, and the bounds of what is kept."""
    step, top = WIDTH / len(counts), max([*counts, 1])
    whole = all(float(edge).is_integer() for edge in edges)
    single = whole and edges[1] - edges[0] == 1 and edges[-1] - edges[0] == len(counts)
    bars = [
        {
            "x": k * step + 0.5,
            "width": max(step - 1, 0.5),
            "height": n / top * HEIGHT,
            "label": f"{_bin(edges[k], edges[k + 1], single)}: {n:,}",
            "out": bound is not None and is_out(edges[k], edges[k + 1], bound),
        }
        for k, n in enumerate(counts)
    ]
    every = max(1, len(counts) // 6)
    middle = step / 2 if single else 0
    ends = range(0, len(counts) if single else len(edges), every)
    return {
        "corpus": corpus,
        "title": corpus,
        "bars": bars,
        "top": top,
        "ticks": [(k * step + middle, short(edges[k])) for k in ends],
        "marks": list(_marks(edges, step, bound)) if bound else [],
        "summary": f"{sum(counts):,} values",
    }


def is_out(low: float, high: float, bound: Bound) -> bool:
    """Whether nothing of a bin, which is below `high`, is kept."""
    under = bound.min is not None and high <= bound.min
    return under or (bound.max is not None and low > bound.max)


def _marks(edges: Sequence[float], step: float, bound: Bound) -> Iterator[Table]:
    """Lines at the bounds, each with a label on the side where there is more room."""
    found: list[tuple[float, str]] = []
    if bound.min is not None:
        place = float(np.interp(bound.min, edges, range(len(edges))))
        found.append((place, f"keep from {short(bound.min)}"))
    if bound.max is not None:  # what is there is kept: the line comes after it
        place = min(int(np.searchsorted(edges, bound.max, side="right")), len(edges) - 1)
        found.append((place, f"keep up to {short(bound.max)}"))
    for place, label in found:
        left = place * step < WIDTH / 2
        text = {"text_x": place * step + (5 if left else -5), "side": "start" if left else "end"}
        yield {"x": place * step, "label": label} | text


def _bin(low: float, high: float, single: bool) -> str:
    return short(low) if single else f"{short(low)} to {short(high)}"


def round_step(rough: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** np.floor(np.log10(rough))
    return float(power * next(m for m in (1, 2, 5, 10, 20) if m * power >= rough))
