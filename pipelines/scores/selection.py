"""Keep the best fraction of a corpus by a score, exactly, while no worker sees all the scores.

Documents are in one order: the best score first, equal ones by a hash of their id. Where it is cut
is found 16 bits at a time. Parts count with which digits the scores go on that begin as the cut
does; the counts, at most 65,536 numbers however large the corpus, tell the cut's next digit. After
the 32 bits of a score, 16 of the hash follow, since scores that are rounded are often equal. What
then still shares all digits with the cut, one in 65,536 of those with its score, is sorted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsSingleton
from numpy.typing import NDArray

from filters.rules import Rule, above, below, flag, reasons
from filters.scored import score
from pipelines.config.steps import Select
from pipelines.stage import Place, Stage, measures_of, write_documents
from shards import ledger, schema

COLUMNS = ("id", "scores")  # all that is looked at before documents are written
ROUNDS = 3  # two digits of the score, one of the hash

COUNTS = pa.schema([("digit", pa.uint16()), ("count", pa.int64())])
TIES = pa.schema([("hash", pa.uint64()), ("part", pa.int32()), ("row", pa.int32())])

Orders = NDArray[np.uint32]  # of scores: the best is the smallest
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cut:
    """What is known of the last document that is kept.

    Attributes:
        digits: the first of its order and hash, 16 bits each.
        left: how many of the documents with these digits are kept; None before the first count.
        last: at the end, its hash, part and row; documents with its score up to it are kept.
    """

    digits: tuple[int, ...] = ()
    left: int | None = None
    last: tuple[int, int, int] = (-1, -1, -1)

    @property
    def order(self) -> np.uint32:
        """Of its score."""
        return np.uint32(self.digits[0] << 16 | self.digits[1])


def select_stage(name: str, source: Stage, options: Select) -> Stage:
    """Keep the best `fraction` of the documents that have the score, rounded down to a whole one.

    Of documents with the score of the cut those are kept whose ids hash to the smallest numbers;
    copies of one document, which have one id, by their place in the corpus. Documents without the
    score are dropped, and are not counted. DataComp keeps the best 30 % by the cosine of CLIP
    ViT-L/14 (Gadre et al. 2023, section 4 and baselines/apply_filter.py, where all of a tie are
    kept), DCLM the best tenth by quality (Li et al. 2024).
    """
    return Stage(
        name,
        partial(_select, options=options),
        options.model_dump(),
        ("pipelines.scores.selection",),
        inputs=(source.name,),
        selects=True,
    )


def _select(parts: Any, place: Place, options: Select) -> Any:
    cut = parts.pipeline | "start" >> beam.Create([Cut()])
    for number in range(ROUNDS):
        counts = (
            parts
            | f"count {number}" >> beam.Map(_count, place, options, AsSingleton(cut))
            | f"sum {number}" >> beam.CombineGlobally(summed)
        )
        cut |= f"cut {number}" >> beam.Map(narrowed, AsSingleton(counts), options.fraction)
    ties = parts | "ties" >> beam.Map(_ties, place, options, AsSingleton(cut))
    every = ties | "all ties" >> beam.CombineGlobally(_together)
    cut |= "cut" >> beam.Map(ended, AsSingleton(every))
    return parts | "write" >> beam.Map(_write, place, options, AsSingleton(cut))


def _count(part: int, place: Place, options: Select, cut: Cut) -> pa.Table:
    with place.clock():
        return counted(place.read(part, COLUMNS), options, cut)


def _ties(part: int, place: Place, options: Select, cut: Cut) -> pa.Table:
    with place.clock():
        return tied(place.read(part, COLUMNS), part, options, cut)


def counted(documents: pa.Table, options: Select, cut: Cut) -> pa.Table:
    """Of the documents that begin as the cut does, how many have each next digit."""
    rows, digits = _next_digits(documents, options, cut)
    found, counts = np.unique(digits[rows], return_counts=True)
    return pa.table([pa.array(found.astype(np.uint16)), pa.array(counts)], schema=COUNTS)


def tied(documents: pa.Table, part: int, options: Select, cut: Cut) -> pa.Table:
    """What of a part shares all of the cut's digits."""
    if not cut.digits:
        return TIES.empty_table()
    rows, digits = _next_digits(documents, options, cut)
    rows = rows[digits[rows] == cut.digits[-1]]
    columns = [hashes(documents, rows), np.full(len(rows), part), rows]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, TIES, strict=True)]
    return pa.table(arrays, schema=TIES)


def _next_digits(
    documents: pa.Table, options: Select, cut: Cut
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The rows that begin as the cut does, and of every row the digit that comes next."""
    values = score(documents, options.by)
    orders, known = order(values, lowest=options.lowest), ~np.isnan(values)
    high, low = (orders >> np.uint32(16)).astype(np.uint64), (orders & 0xFFFF).astype(np.uint64)
    if not cut.digits:
        return np.flatnonzero(known), high
    if len(cut.digits) == 1:
        return np.flatnonzero(known & (high == cut.digits[0])), low
    rows = np.flatnonzero(known & (orders == cut.order))
    digits = np.zeros(len(orders), np.uint64)
    digits[rows] = hashes(documents, rows) >> np.uint64(48)
    return rows, digits


def order(values: NDArray[Any], *, lowest: bool = False) -> Orders:
    """The places of float32 scores among all that there can be, so that the best is smallest."""
    bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)  # -0 is 0
    negative = bits >> np.uint32(31) == 1
    ascending: Orders = np.where(negative, ~bits, bits | np.uint32(1 << 31))
    return ascending if lowest else ~ascending


def value(place: np.uint32, *, lowest: bool = False) -> float:
    """The score whose `order` is this."""
    ascending = place if lowest else ~place
    negative = not ascending >> np.uint32(31)
    bits = ~ascending if negative else ascending ^ np.uint32(1 << 31)
    return float(np.uint32(bits).view(np.float32))


def hashes(documents: pa.Table, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 bits of each of some rows' ids."""
    ids = documents["id"].take(pa.array(rows)).to_pylist()
    return np.array([int(schema.digest("select", each)[:16], 16) for each in ids], np.uint64)


def summed(tables: Iterable[pa.Table]) -> pa.Table:
    """Counts by digit, of all parts; in the order of digits."""
    rows = pa.concat_tables([COUNTS.empty_table(), *tables])
    digits, places = np.unique(np.asarray(rows["digit"]), return_inverse=True)
    counts = np.zeros(len(digits), np.int64)
    np.add.at(counts, places, np.asarray(rows["count"]))
    return pa.table([pa.array(digits), pa.array(counts)], schema=COUNTS)


def narrowed(cut: Cut, counts: pa.Table, fraction: float) -> Cut:
    """The cut with its next digit; as it is if there is nothing to cut."""
    if not counts.num_rows:
        return cut
    upto = np.cumsum(np.asarray(counts["count"]))
    left = _wanted(int(upto[-1]), fraction) if cut.left is None else cut.left
    at = int(np.searchsorted(upto, left))
    before = int(upto[at - 1]) if at else 0
    return replace(cut, digits=(*cut.digits, counts["digit"][at].as_py()), left=left - before)


def _wanted(count: int, fraction: float) -> int:
    """How many of `count` are kept; 0.29 of 100 are 29, which they are not in floating point."""
    return int(Fraction(str(fraction)) * count)


def _together(tables: Iterable[pa.Table]) -> pa.Table:
    return pa.concat_tables([TIES.empty_table(), *tables]).combine_chunks()


def ended(cut: Cut, ties: pa.Table) -> Cut:
    """The cut with the last document that is kept."""
    if not cut.left:
        return cut
    rows = ties.sort_by([(name, "ascending") for name in TIES.names])
    found = rows.slice(cut.left - 1, 1).to_pylist()[0]
    return replace(cut, last=(found["hash"], found["part"], found["row"]))


def _write(part: int, place: Place, options: Select, cut: Cut) -> int:
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            found = rules(documents, part, options, cut)
            why = reasons(found)
            told = details(found, why.to_pylist())
            drops = ledger.drop_rows(documents, why.to_pylist(), details=told)
            result = documents.filter(why.is_null()), drops
            write_documents(place, part, documents, result, measures=measures_of(documents, found))
    return part


def rules(documents: pa.Table, part: int, options: Select, cut: Cut) -> list[Rule]:
    """What drops the documents of a part: no score, one beyond the cut, or a tie that is lost."""
    values, by = score(documents, options.by), options.by
    limit = value(cut.order, lowest=options.lowest) if cut.digits else None
    beyond = above if options.lowest else below
    side = "above" if options.lowest else "below"
    return [
        flag(f"{by}_missing", np.isnan(values)),
        beyond(f"{by}_{side}_cut", values, limit),
        flag(f"{by}_tied", _lost_ties(documents, values, part, options, cut)),
    ]


def _lost_ties(
    documents: pa.Table, values: NDArray[Any], part: int, options: Select, cut: Cut
) -> Mask:
    """The documents that have the score of the cut, but come after the last that is kept."""
    lost = np.zeros(len(values), bool)
    if not cut.digits:
        return lost
    orders = order(values, lowest=options.lowest)
    rows = np.flatnonzero(~np.isnan(values) & (orders == cut.order))
    keys = zip(hashes(documents, rows).tolist(), rows.tolist(), strict=True)
    lost[rows] = [(hashed, part, row) > cut.last for hashed, row in keys]
    return lost


def details(found: list[Rule], why: list[str | None]) -> list[str | None]:
    """For each dropped document its score and the cut."""
    _, beyond, tied = found
    limit = beyond.max if beyond.min is None else beyond.min
    sign = {beyond.reason: "<" if beyond.max is None else ">", tied.reason: "="}
    return [
        f"{score:.6g} {sign[reason]} {limit:.6g}" if reason in sign else None
        for score, reason in zip(beyond.values, why, strict=True)
    ]
