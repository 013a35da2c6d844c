"""What rules measured, read in bounded memory: counted as numpy counts it in one piece."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import ledger, measures, schema
from shards.measures import Bound, Distribution
from shards.storage import Location, write_table
from tests.shards.stages import finish, folder_of

NONE = None
WORDS = pa.field("too_few_words", pa.float32(), metadata={"min": "50.0"})
SHARE = pa.field("too_repetitive", pa.float32(), metadata={"max": "0.3"})
LOREM = pa.field("lorem_ipsum", pa.float32(), metadata={"fixed": ""})
SHORT = [20.0, NONE, NONE]  # dropped by the first filter, unseen by the second


def write_measures(
    run: Location, name: str, columns: list[pa.Field], *parts: list[list[float | None]]
) -> Location:
    """A finished stage that measured these rows of rules; all its documents are kept."""
    folder = folder_of(run, name)
    for number, rows in enumerate(parts):
        arrays = [pa.array([row[i] for row in rows], c.type) for i, c in enumerate(columns)]
        ids = pa.array([f"{number}-{i}" for i in range(len(rows))])
        fields = pa.schema([pa.field("id", pa.string()), *columns])
        table = pa.table([ids, *arrays], schema=fields)
        write_table(folder / "measures" / f"{ledger.part_name(number)}.parquet", table)
        counts = {"document": len(rows)}
        nothing = schema.DROP.empty_table()
        ledger.write_part(folder, number, None, nothing, read=counts, kept=counts)
    finish(run, name)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts = [
        [[60, 0, 0.1], [50, 0, 0.3], SHORT],
        [[10, 1, NONE], [80, 0, 0.31]],
        [],
    ]
    return write_measures(tmp_path, "text/filter", [WORDS, LOREM, SHARE], *parts)


def test_bounds_are_what_the_columns_say(folder: Path):
    assert measures.bounds(folder) == [
        Bound("too_few_words", min=50),
        Bound("lorem_ipsum", max=0, fixed=True),
        Bound("too_repetitive", max=0.3),
    ]


def test_a_stage_that_measured_nothing_has_no_bounds(tmp_path: Path):
    folder = folder_of(tmp_path, "text/dedupe")
    ledger.write_part(folder, 0, None, schema.DROP.empty_table(), read={}, kept={})
    finish(tmp_path, "text/dedupe")
    assert measures.bounds(folder) == []


def test_a_value_on_the_bound_is_kept_as_the_filter_kept_it():
    values = np.array([0.3, np.nextafter(np.float32(0.3), np.float32(1)), np.nan], np.float32)
    assert Bound("x", max=0.3).broken(values).tolist() == [False, True, False]
    assert Bound("x", min=0.3).broken(-values).tolist() == [True, True, False]
    assert Bound("x", min=0.1, max=0.2).broken(values).tolist() == [True, True, False]


def test_the_account_of_each_rule(folder: Path):
    found = measures.account(folder)
    assert (found.records, found.kept) == (5, 2)
    rows = [(r.measured, r.broken, r.first, r.alone, r.unsure) for r in found.rules]
    assert rows == [
        (5, 2, 2, 0, 1),  # SHORT was not seen by the others; [10, 1] is lorem ipsum as well
        (4, 1, 0, 0, 0),
        (3, 1, 1, 1, 0),
    ]
    assert found.rules[0].values.quantile(0.5) == 50


def test_an_empty_run_of_rules_keeps_everything(tmp_path: Path):
    folder = write_measures(tmp_path, "text/filter", [WORDS], [], [])
    found = measures.account(folder)
    assert (found.records, found.kept, found.rules[0].measured) == (0, 0, 0)
    assert np.isnan(found.rules[0].values.quantile(0.5))


numbers = st.floats(width=32, allow_infinity=False, min_value=-(2.0**99), max_value=2.0**99)


@given(st.lists(st.lists(numbers), min_size=1))
def test_a_distribution_is_that_of_all_values_to_twelve_bits(parts: list[list[float]]):
    found = Distribution()
    for part in parts:
        found.add(np.array(part, np.float32))
    values = np.array([v for part in parts for v in part], np.float32)
    values = np.sort(values[~np.isnan(values)])
    distinct, counts = found.counts()
    assert np.all(np.diff(distinct) > 0)
    np.testing.assert_allclose(np.repeat(distinct, counts), values, rtol=2.5e-4, atol=1e-38)
    for share in (0.05, 0.5, 0.95) if len(values) else ():
        exact = np.quantile(values, share, method="inverted_cdf")
        np.testing.assert_allclose(found.quantile(share), exact, rtol=2.5e-4, atol=1e-38)


def test_whole_numbers_up_to_4096_are_exact_and_places_are_bounded(monkeypatch):
    monkeypatch.setattr(measures, "BUFFERED", 1000)
    found = Distribution()
    for start in range(0, 100_000, 500):
        found.add(np.arange(start, start + 500, dtype=np.float32))
    values, counts = found.counts()
    assert values[:4097].tolist() == list(range(4097))
    assert counts.sum() == 100_000
    assert len(values) < 4096 + 5 * 2048
