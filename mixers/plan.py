"""Which corpus, and which of its sources, each position of the mixture comes from.

The plan is a pure function of the weights: no random state, no side table. Corpus *c* with share
*w* must have been used more than ``w*n - 1`` and less than ``w*n + 1`` times in the first *n*
positions, for every *n*. Its *j*-th use (from 1) therefore belongs into the window of positions
``floor((j-1)/w) .. ceil(j/w)-1``, and serving the open window that closes first always meets all
of them (earliest deadline first on one machine: Baruah, Cohen, Plaxton and Varvel, "Proportionate
progress", 1996). Shares are exact fractions, so the pattern repeats after as many positions as
their common denominator.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm

import numpy as np
from numpy.typing import NDArray

LONGEST_PERIOD = 1_000_000


class PlanError(ValueError):
    """Weights or corpora that no mixture can be made of."""


def shares(weights: Mapping[str, float]) -> dict[str, Fraction]:
    """Weights as exact fractions that sum to one, in the order of their names."""
    exact = {name: Fraction(str(weight)) for name, weight in sorted(weights.items())}
    if not exact or min(exact.values()) <= 0:
        raise PlanError(f"weights must be above zero, found {dict(weights)}")
    whole = sum(exact.values())
    return {name: weight / whole for name, weight in exact.items()}


def period(weights: Mapping[str, float]) -> NDArray[np.int16]:
    """The repeating pattern: for each position the index of its corpus in sorted names."""
    parts = list(shares(weights).values())
    length = lcm(*(part.denominator for part in parts))
    if length > LONGEST_PERIOD:
        raise PlanError(
            f"weights {dict(weights)} repeat only after {length} positions; "
            f"round them so that their common denominator is at most {LONGEST_PERIOD}"
        )
    used = [0] * len(parts)
    pattern = np.empty(length, dtype=np.int16)
    for position in range(length):
        # Corpora whose next window is open: (j-1)/w <= position, with j-1 = uses so far.
        eligible = [c for c, w in enumerate(parts) if used[c] <= w * position]
        chosen = min(eligible, key=lambda c: (-(-(used[c] + 1) // parts[c]), c))
        pattern[position] = chosen
        used[chosen] += 1
    return pattern


@dataclass(frozen=True)
class Plan:
    """A mixture of `available` sequences by corpus, stopped when the first corpus runs out."""

    weights: Mapping[str, float]
    available: Mapping[str, int]

    @cached_property
    def names(self) -> list[str]:
        """Corpora in the order of their indices."""
        return sorted(self.weights)

    @cached_property
    def _pattern(self) -> NDArray[np.int16]:
        return period(self.weights)

    @cached_property
    def _places(self) -> list[NDArray[np.int64]]:
        """Positions of each corpus inside one period."""
        return [np.flatnonzero(self._pattern == c) for c in range(len(self.names))]

    def _runs_out(self, corpus: int) -> int:
        """The first position that `corpus` cannot fill."""
        places, n = self._places[corpus], self.available[self.names[corpus]]
        return int(n // len(places) * len(self._pattern) + places[n % len(places)])

    @cached_property
    def total(self) -> int:
        """How many positions the mixture has."""
        return min(self._runs_out(c) for c in range(len(self.names)))

    @cached_property
    def stopped_by(self) -> str:
        """The corpus that ran out first."""
        return min(self.names, key=lambda name: self._runs_out(self.names.index(name)))

    def used(self, position: int) -> dict[str, int]:
        """How often each corpus was used before `position`."""
        rounds, rest = divmod(position, len(self._pattern))
        return {
            name: int(rounds * len(places) + np.searchsorted(places, rest))
            for name, places in zip(self.names, self._places, strict=True)
        }

    def corpora(self, first: int, last: int) -> list[str]:
        """The corpus of each position from `first` up to, not including, `last`."""
        index = np.arange(first, last) % len(self._pattern)
        return [self.names[c] for c in self._pattern[index]]

    def position(self, corpus: str, index: int) -> int:
        """The position at which sequence `index` of `corpus` stands; may be past `total`."""
        places = self._places[self.names.index(corpus)]
        return int(index // len(places) * len(self._pattern) + places[index % len(places)])


@dataclass(frozen=True)
class Mixture:
    """A plan of corpora, and within some of them plans of their sources.

    The *k*-th sequence of such a corpus comes from the source at position *k* of its own plan. So
    every prefix of the mixture has each corpus within one sequence of its share, and the sequences
    of the corpus in that prefix have each source within one of its share. A corpus has run out
    when the first of its sources has. Groups are what is counted: "text", "captions/vecap".
    """

    corpora: Plan
    sources: Mapping[str, Plan]  # by corpus

    @property
    def total(self) -> int:
        """How many positions the mixture has."""
        return self.corpora.total

    @property
    def stopped_by(self) -> str:
        """The group that ran out first."""
        corpus = self.corpora.stopped_by
        plan = self.sources.get(corpus)
        return corpus if plan is None else group_name(corpus, plan.stopped_by)

    def used(self, position: int) -> dict[str, int]:
        """How often each group was used before `position`."""
        counts = self.corpora.used(position)
        return {name: n for corpus in counts for name, n in self._within(corpus, counts[corpus])}

    def _within(self, corpus: str, count: int) -> list[tuple[str, int]]:
        """The groups of the first `count` sequences of a corpus."""
        if corpus not in self.sources:
            return [(corpus, count)]
        used = self.sources[corpus].used(count)
        return [(group_name(corpus, source), n) for source, n in used.items()]

    def groups(self, first: int, last: int) -> list[str]:
        """The group of each position from `first` up to, not including, `last`."""
        start, stop = self.corpora.used(first), self.corpora.used(last)
        inner = {
            corpus: iter(plan.corpora(start[corpus], stop[corpus]))
            for corpus, plan in self.sources.items()
        }
        return [
            group_name(corpus, next(inner[corpus])) if corpus in inner else corpus
            for corpus in self.corpora.corpora(first, last)
        ]


def group_name(corpus: str, source: str) -> str:
    """How a source of a corpus is named where both are counted."""
    return f"{corpus}/{source}"


def mixture(
    weights: Mapping[str, float],
    sources: Mapping[str, Mapping[str, float]],
    available: Mapping[str, int],
) -> Mixture:
    """The mixture of `available` sequences by group.

    Args:
        weights: of the corpora.
        sources: the weights of their sources, of the corpora that give them.
        available: sequences of each corpus without source weights, and of each source of others.
    """
    plans = {
        corpus: Plan(shares, {name: available[group_name(corpus, name)] for name in shares})
        for corpus, shares in sources.items()
    }
    whole = {name: plans[name].total if name in plans else available[name] for name in weights}
    return Mixture(Plan(weights, whole), plans)
