"""What a filter is, and the few steps that every filter is written with.

A filter measures each record of a batch, compares the measurements with thresholds, and answers
with a column of reasons: null keeps the record, a short constant string drops it. A threshold of
None turns its rule off. Filters never edit a record.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
T = TypeVar("T")
Rule = tuple[Mask, str]


class Filter(Protocol):
    """A function from a batch and keyword thresholds to a string column of reasons."""

    __name__: str

    def __call__(self, *args: Any, **kwargs: Any) -> pa.Array:
        """Reasons for the rows of a batch, the first argument."""


def reasons(n: int, rules: Sequence[Rule]) -> pa.Array:
    """The reason of the first rule whose mask holds for each of `n` records, null where none does.

    Args:
        n: number of records.
        rules: masks of shape [n], each with the reason it stands for, in order of precedence.
    """
    first = np.full(n, None, dtype=object)
    for mask, reason in reversed(rules):
        first[mask] = reason
    return pa.array(first, pa.string())


def measured(measure: Callable[[T], float], items: Iterable[T]) -> NDArray[np.float64]:
    """One number for each item."""
    return np.fromiter(map(measure, items), np.float64)


def share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """`part / whole`, and 0 where there is nothing to have a share of."""
    shares = np.zeros(len(part))
    np.divide(part, whole, out=shares, where=whole > 0)
    return shares


def below(values: NDArray[Any], limit: float | None) -> Mask:
    """Where a value is less than `limit`: nowhere without a limit, nor for NaN."""
    return np.zeros(len(values), bool) if limit is None else values < limit


def above(values: NDArray[Any], limit: float | None) -> Mask:
    """Where a value is more than `limit`: nowhere without a limit, nor for NaN."""
    return np.zeros(len(values), bool) if limit is None else values > limit
