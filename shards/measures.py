"""What the rules of a stage measured of each record, read part by part in bounded memory.

A stage may write, beside the documents of a part, a table of measures: a row for every record
that it read, `id` (of images also `image`, the number of the image in its document) and a column
of numbers a rule, null where the rule did not get to see the record. The column is named by the
reason that the rule drops for, and its metadata hold the bounds within which a record is kept:
"min" and "max", or "fixed" if the measure is yes or no.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards import ledger, storage
from shards.storage import Location

MEASURES = "measures"  # the kind of the files
KEYS = ("id", "image")  # columns that name the record
AT_ONCE = 16  # parts that are held in memory
BUFFERED = 1 << 18  # values of a rule that wait to be counted
DROPPED_BITS = 12  # of a float32's 23 after the point

Mask = NDArray[np.bool_]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class Bound:
    """What a rule keeps: values from `min` to `max`, where None is no bound."""

    rule: str
    min: float | None = None
    max: float | None = None
    fixed: bool = False  # yes or no: there is nothing to choose

    @classmethod
    def of(cls, column: pa.Field) -> "Bound":
        """The bound that a column's metadata tell of."""
        said = {k.decode(): v.decode() for k, v in (column.metadata or {}).items()}
        if "fixed" in said:
            return cls(column.name, max=0.0, fixed=True)
        low, high = (float(said[side]) if side in said else None for side in ("min", "max"))
        return cls(column.name, low, high)

    def broken(self, values: Values) -> Mask:
        """Which values the rule drops; NaN is within every bound. Compares as float32."""
        broken = np.zeros(len(values), bool)
        if self.min is not None:
            broken |= values < np.float32(self.min)
        if self.max is not None:
            broken |= values > np.float32(self.max)
        return broken


def bounds(folder: Location) -> list[Bound]:
    """The rules of a finished stage, in their order; none if it measured nothing."""
    files = ledger.part_files(folder, MEASURES)
    if not files:
        return []
    return [Bound.of(c) for c in storage.read_schema(files[0]) if c.name not in KEYS]


@dataclass(frozen=True)
class Measured:
    """What some rules say of the records of a part.

    Attributes:
        values: float32 of shape [rules, records], NaN where there is none.
        known: which of them were measured, of the same shape.
        starts: of images, the row of the first image of each document; None for documents.
    """

    values: Values
    known: Mask
    starts: NDArray[np.int64] | None

    def broken(self, limits: Sequence[Bound]) -> Mask:
        """What each of the rules drops, of shape [rules, records]."""
        rows = zip(limits, self.values, strict=True)
        none = np.zeros((0, self.values.shape[1]), bool)
        return np.vstack([none, *(bound.broken(values) for bound, values in rows)])

    def dropped(self, limits: Sequence[Bound]) -> Mask:
        """The records that some rule drops."""
        dropped: Mask = np.logical_or.reduce(self.broken(limits), axis=0)
        return dropped


def read_measures(folder: Location, rules: Sequence[str]) -> Iterator[Measured]:
    """The measures of a finished stage, part by part."""
    files = ledger.part_files(folder, MEASURES)
    for first in range(0, len(files), AT_ONCE):
        for table in storage.in_parallel(storage.read_table, files[first : first + AT_ONCE]):
            yield _measured(table, rules)


def _measured(table: pa.Table, rules: Sequence[str]) -> Measured:
    columns = [table[rule].combine_chunks() for rule in rules]
    shape = (len(rules), table.num_rows)
    values, known = np.empty(shape, np.float32), np.empty(shape, bool)
    for i, column in enumerate(columns):
        values[i] = column.to_numpy(zero_copy_only=False)
        known[i] = np.asarray(column.is_valid())
    images = "image" in table.column_names
    starts = np.flatnonzero(table["image"].to_numpy() == 0) if images else None
    return Measured(values, known, starts)


class Distribution:
    """How often each value occurs, to 12 significant bits, whatever the number of values.

    Integers up to 4096 are exact, other numbers off by at most one part in 4096: a rule that
    measures a million different numbers takes some ten thousand places.
    """

    def __init__(self) -> None:
        self._values, self._counts = np.empty(0, np.float32), np.empty(0, np.int64)
        self._waiting: list[Values] = []
        self._length = 0

    def add(self, values: Values) -> None:
        """Count some more values; those that are no number are left out."""
        self._waiting.append(values[~np.isnan(values)])
        self._length += len(self._waiting[-1])
        if self._length > BUFFERED:
            self._count()

    def _count(self) -> None:
        fresh, counts = np.unique(rounded(np.concatenate(self._waiting)), return_counts=True)
        both = np.concatenate([self._values, fresh])
        self._values, places = np.unique(both, return_inverse=True)
        weights = np.concatenate([self._counts, counts])
        self._counts = np.zeros(len(self._values), np.int64)
        np.add.at(self._counts, places, weights)
        self._waiting, self._length = [], 0

    def counts(self) -> tuple[Values, NDArray[np.int64]]:
        """The distinct values, ascending, and how often each occurs."""
        if self._waiting:
            self._count()
        return self._values, self._counts

    def quantile(self, share: float) -> float:
        """The smallest value that at least `share` of all values do not exceed; NaN of none."""
        values, counts = self.counts()
        if not len(values):
            return float("nan")
        upto = np.cumsum(counts)
        return float(values[np.searchsorted(upto, share * upto[-1] * (1 - 1e-12))])


def rounded(values: Values) -> Values:
    """To the nearest float32 of 12 significant bits."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    half = np.uint32(1 << (DROPPED_BITS - 1))
    kept = np.uint32((1 << 32) - (1 << DROPPED_BITS))
    rounded: Values = ((bits + half) & kept).view(np.float32)
    return rounded


@dataclass
class RuleAccount:
    """What a rule did to the records of a stage."""

    bound: Bound
    measured: int = 0
    broken: int = 0  # outside of its bounds
    first: int = 0  # dropped by it: no rule before it had dropped them
    alone: int = 0  # dropped, and every other rule would keep them
    unsure: int = 0  # dropped, and so would every other rule that has seen them; some have not
    values: Distribution = field(default_factory=Distribution)


@dataclass
class Account:
    """What the rules of a stage did to its records."""

    records: int
    kept: int  # by every rule
    rules: list[RuleAccount]


def account(folder: Location) -> Account:
    """What each rule of a finished stage measured and dropped, in one pass over its parts."""
    rules = [RuleAccount(bound) for bound in bounds(folder)]
    result = Account(0, 0, rules)
    for part in read_measures(folder, [rule.bound.rule for rule in rules]):
        _add(result, part)
    return result


def _add(result: Account, part: Measured) -> None:
    broken = part.broken([rule.bound for rule in result.rules])
    often, complete = broken.sum(0), part.known.all(0)
    before: NDArray[np.int64] = np.cumsum(broken, 0) - broken
    result.records += broken.shape[1]
    result.kept += int((often == 0).sum())
    for i, rule in enumerate(result.rules):
        known, mine = part.known[i], broken[i]
        rule.values.add(part.values[i][known])
        rule.measured += int(known.sum())
        rule.broken += int(mine.sum())
        rule.first += int((mine & (before[i] == 0)).sum())
        rule.alone += int((mine & (often == 1) & complete).sum())
        rule.unsure += int((mine & (often == 1) & ~complete).sum())


def chosen(limits: Iterable[Bound], changed: Iterable[Bound]) -> list[Bound]:
    """`limits` with those rules' that are `changed`."""
    new: dict[str, Any] = {bound.rule: bound for bound in changed}
    return [new.get(bound.rule, bound) for bound in limits]
