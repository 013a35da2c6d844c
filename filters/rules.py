"""What a filter is, and the few steps that every filter is written with.

A filter measures each record of a batch and says within which bounds a record is kept: it answers
with `Rule`s, in order of precedence. What was measured is stored, so that other bounds can be
tried without measuring again; the bounds make the column of reasons. Filters never edit a record.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """A measurement, and the bounds that it drops a record outside of.

    Attributes:
        reason: a short constant string, the ledger's word for a record that this drops.
        values: one number a record, of shape [records]. NaN is within every bound.
        min: the smallest value that is kept; None for no bound.
        max: the largest value that is kept; None for no bound.
        fixed: whether the values are yes or no, so that there is no bound to choose.
    """

    reason: str
    values: NDArray[Any]
    min: float | None = None
    max: float | None = None
    fixed: bool = False

    def drops(self) -> Mask:
        """Which records are outside the bounds, of shape [records].

        Both are rounded to float32, as what is measured is stored: it then decides the same.
        """
        values = self.values.astype(np.float32)
        dropped = np.zeros(len(values), bool)
        if self.min is not None:
            dropped |= values < np.float32(self.min)
        if self.max is not None:
            dropped |= values > np.float32(self.max)
        return dropped


class Filter(Protocol):
    """A function from a batch and keyword thresholds to the rules that its records are under."""

    __name__: str

    def __call__(self, *args: Any, **kwargs: Any) -> list[Rule]:
        """Rules over the rows of a batch, the first argument."""


def below(reason: str, values: NDArray[Any], limit: float | None) -> Rule:
    """Drops what is less than `limit`."""
    return Rule(reason, values, min=limit)


def above(reason: str, values: NDArray[Any], limit: float | None) -> Rule:
    """Drops what is more than `limit`."""
    return Rule(reason, values, max=limit)


def flag(reason: str, mask: Mask) -> Rule:
    """Drops where `mask` holds; there is no threshold to choose."""
    return Rule(reason, mask.astype(np.float64), max=0.0, fixed=True)


def reasons(rules: Sequence[Rule]) -> pa.Array:
    """For each record the reason of the first rule that drops it, null where none does.

    Shape: a string array of [records].
    """
    first = np.full(len(rules[0].values), None, dtype=object)
    for rule in reversed(rules):
        first[rule.drops()] = rule.reason
    return pa.array(first, pa.string())


def measured(measure: Callable[[T], float], items: Iterable[T]) -> NDArray[np.float64]:
    """One number for each item."""
    return np.fromiter(map(measure, items), np.float64)


def share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """`part / whole`, and 0 where there is nothing to have a share of."""
    shares = np.zeros(len(part))
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares
