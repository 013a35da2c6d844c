"""The best fraction of a corpus, against sorting all of it."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.config.steps import Select
from pipelines.scores import selection
from pipelines.scores.selection import Cut, order, select_stage, value
from pipelines.stage import Place
from shards import ledger, schema, tune
from shards.storage import read_table
from tests.pipelines.by_hand import kept, run_stage, source, write_stage

FLOATS = st.floats(width=32, allow_nan=False)
ROUNDED = st.integers(-3, 3).map(lambda n: n / 4)  # often equal
IDS = st.integers(0, 40).map(str)  # some documents are there twice


def documents(rows: Sequence[tuple[str, float]], name: str = "quality") -> pa.Table:
    made = [schema.document("web", None, []) | {"id": each} for each, _ in rows]
    return schema.with_score(schema.documents(made), name, [score for _, score in rows])


def naive(parts: list[pa.Table], options: Select) -> list[list[int]]:
    """The rows of each part that sorting everything keeps."""
    every = [
        (part, row, dict(scores or []).get(options.by), each)
        for part, table in enumerate(parts)
        for row, (each, scores) in enumerate(
            zip(table["id"].to_pylist(), table["scores"].to_pylist(), strict=True)
        )
    ]
    known = [each for each in every if each[2] is not None]
    sign = 1 if options.lowest else -1
    known.sort(key=lambda r: (sign * r[2], schema.digest("select", r[3])[:16], r[0], r[1]))
    best = known[: int(Fraction(str(options.fraction)) * len(known))]
    return [sorted(r for p, r, *_ in best if p == part) for part in range(len(parts))]


def chosen(parts: list[pa.Table], options: Select) -> list[list[int]]:
    """The rows that the stage's own steps keep, one after the other and without Beam."""
    cut = Cut()
    for _ in range(selection.ROUNDS):
        counts = [selection.counted(table, options, cut) for table in parts]
        cut = selection.narrowed(cut, selection.summed(counts), options.fraction)
    ties = [selection.tied(table, part, options, cut) for part, table in enumerate(parts)]
    cut = selection.ended(cut, pa.concat_tables([selection.TIES.empty_table(), *ties]))
    found = []
    for part, table in enumerate(parts):
        why = selection.reasons(selection.rules(table, part, options, cut))
        found.append([row for row, reason in enumerate(why.to_pylist()) if reason is None])
    return found


@settings(max_examples=200)
@given(
    st.lists(st.lists(st.tuples(IDS, st.one_of(ROUNDED, FLOATS, st.just(float("nan")))))),
    st.one_of(st.just(1.0), st.integers(1, 99).map(lambda n: n / 100)),
    st.booleans(),
)
def test_what_is_kept_is_the_head_of_the_sorted_corpus(
    rows: list[list[tuple[str, float]]], fraction: float, lowest: bool
):
    parts = [documents(part) for part in rows]
    options = Select(by="quality", fraction=fraction, lowest=lowest)
    assert chosen(parts, options) == naive(parts, options)


@given(FLOATS, FLOATS, st.booleans())
def test_an_order_is_that_of_the_scores_and_leads_back_to_them(a: float, b: float, lowest: bool):
    first, second = order(np.array([a, b], np.float32), lowest=lowest)
    assert (first < second) == (a < b if lowest else a > b)
    assert value(first, lowest=lowest) == a


def test_a_fraction_is_the_decimal_that_is_written():
    """0.29 * 100 is 28.999999999999996."""
    rows = [documents([(str(n), n / 128) for n in range(100)])]
    assert chosen(rows, Select(by="quality", fraction=0.29)) == [list(range(71, 100))]


def run(tmp_path: Path, parts: list[pa.Table], **options: Any) -> Place:
    stage = select_stage("web/select", source("web/quality"), Select(by="quality", **options))
    return run_stage(stage, tmp_path / "select", [write_stage(tmp_path / "given", parts)])


PARTS = [
    documents([("a", 0.5), ("b", 0.25), ("c", 0.75)]),
    documents([]),
    documents([("d", 0.5), ("e", float("nan")), ("f", 0.5), ("g", 0.125)]),
]


def test_a_stage_keeps_the_best_and_says_what_the_others_lacked(tmp_path: Path):
    place = run(tmp_path, PARTS, fraction=0.5)
    best, *others = sorted("adf", key=lambda name: schema.digest("select", name))[:3]
    dropped = others[1]
    assert sorted(name for part in kept(place) for name in part) == sorted({"c", best, others[0]})
    drops = {row["id"]: row for row in ledger.read_drops(place.out).to_pylist()}
    told = {name: (row["reason"], row["detail"]) for name, row in drops.items()}
    assert told == {
        dropped: ("quality_tied", "0.5 = 0.5"),
        "b": ("quality_below_cut", "0.25 < 0.5"),
        "g": ("quality_below_cut", "0.125 < 0.5"),
        "e": ("quality_missing", None),
    }
    counts = ledger.read_counts(place.out)
    assert (counts.read, counts.kept) == ({"document": 7}, {"document": 3})


def test_the_lowest_can_be_the_best(tmp_path: Path):
    place = run(tmp_path, PARTS, fraction=0.34, lowest=True)
    assert kept(place) == [["b"], [], ["g"]]
    reasons = ledger.read_counts(place.out).dropped["document"]
    assert reasons == {"quality_above_cut": 4, "quality_missing": 1}


def test_a_corpus_without_the_score_is_dropped_for_that(tmp_path: Path):
    place = run(tmp_path, [documents([("a", 1.0)], "another")], fraction=0.5)
    assert ledger.read_counts(place.out).dropped["document"] == {"quality_missing": 1}


def test_other_parts_keep_the_same_documents_and_tune_tells_of_other_fractions(tmp_path: Path):
    scores = np.random.default_rng(1).normal(size=400).round(1)
    rows = [(str(n), float(score)) for n, score in enumerate(scores)]
    few = run(tmp_path / "few", [documents(rows)], fraction=0.3)
    many = [documents(rows[first : first + 37]) for first in range(0, 400, 37)]
    again = run(tmp_path / "many", many, fraction=0.3)
    [names] = kept(few)
    assert len(names) == 120
    assert [name for part in kept(again) for name in part] == names
    rule = "quality_below_cut"
    bounds = tune.measures.bounds(few.out)
    found = {bound.rule: bound for bound in tune.reaching(few.out, bounds, rule, 0.1)}
    assert found[rule].min == pytest.approx(np.sort(scores)[-40], abs=0.01)
    table = read_table(few.out / "measures" / "part-00000.parquet")
    assert table.column_names == ["id", "quality_missing", rule, "quality_tied"]
