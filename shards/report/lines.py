"""Lines: how the ratio held by position, and the loss by step."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards import storage
from shards.report.bars import round_step
from shards.report.formats import short
from shards.report.stages import Table
from shards.storage import Location

LINES = (640, 190)  # width and height of a plot of lines
POINTS = 400  # along a line


@dataclass(frozen=True)
class Axes:
    """A linear map from values to pixels, and its ticks."""

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a point; y grows upwards."""
        (left, right), (low, high) = self.x, self.y
        across, up = (x - left) / (right - left or 1), (y - low) / (high - low or 1)
        return across * LINES[0], (1 - up) * LINES[1]

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """SVG path data through the points."""
        placed = [self.place(x, y) for x, y in points]
        return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in placed) if placed else ""

    def ticks(self) -> Table:
        """Places and labels along both axes."""
        return {
            "x": [(self.place(v, 0)[0], short(v)) for v in _round_values(*self.x)],
            "y": [(self.place(0, v)[1], short(v)) for v in _round_values(*self.y)],
        }


def _round_values(low: float, high: float) -> list[float]:
    """From three to seven round numbers from `low` to `high`."""
    step = round_step((high - low) / 5 or 1)
    return [round(float(k * step), 10) for k in np.arange(np.ceil(low / step), high / step + 1e-9)]


def deviation_plot(lines: Mapping[str, NDArray[np.float64]]) -> Table:
    """How far each corpus is ahead of its share, by position, with the bound of one sequence."""
    length = max((len(line) for line in lines.values()), default=0)
    axes = Axes((1, max(length, 2)), (-1.25, 1.25))
    return {
        "series": [
            {"corpus": name, "path": axes.path(_envelope(line))} for name, line in lines.items()
        ],
        "bounds": [axes.place(0, bound)[1] for bound in (1, -1)],
        "zero": axes.place(0, 0)[1],
        "ticks": axes.ticks(),
    }


def _envelope(line: NDArray[np.float64]) -> Iterator[tuple[float, float]]:
    """The points of a line; of a long one, the lowest and highest of each stretch."""
    step = -(-len(line) // POINTS)
    for start in range(0, len(line), step or 1):
        stretch = line[start : start + step]
        for value in stretch if step == 1 else (stretch.min(), stretch.max()):
            yield start + 1, float(value)


def training(file: Location) -> Table | None:
    """The training curve, if the run was trained on: nats a target by step."""
    try:
        lines = [json.loads(line) for line in storage.read_bytes(file).splitlines()]
    except FileNotFoundError:
        return None
    series = {
        key: [(line["step"], line[key]) for line in lines if np.isfinite(line.get(key, np.nan))]
        for key in ("loss", "held_out_loss")
    }
    points = [point for found in series.values() for point in found]
    if not points:
        return None
    steps, losses = zip(*points, strict=True)
    margin = (max(losses) - min(losses)) * 0.06 or 0.5
    axes = Axes((0, max(*steps, 1)), (min(losses) - margin, max(losses) + margin))
    placed = {key: [axes.place(x, y) for x, y in found] for key, found in series.items()}
    rates = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
    return {
        "paths": {key: axes.path(found) for key, found in series.items()},
        "points": placed,
        "series": series,
        "ticks": axes.ticks(),
        "steps": max(steps),
        "tokens_per_second": float(np.median(rates)) if rates else None,
    }
