"""What `mixwright tune` says of a stage, against the stage itself run with other thresholds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.rules import above, below
from pipelines.config.rules import FilterSpec
from pipelines.stage import filter_stage, judge, measure_field
from pipelines.terminal.tuning import lines
from shards import ledger, measures, tune
from shards.measures import Bound
from tests.pipelines.by_hand import run_stage, source, write_stage
from tests.pipelines.test_stage import captions
from tests.shards.test_measures import LOREM, SHARE, WORDS, write_measures

TEXTS = ["a", "bb cc", "a bb ccc dddd", "eeeeeee fffffff", "g h i j k", "llllllllllll", "", "m n o"]


def filters(words: int, characters: int) -> list[FilterSpec]:
    return [
        FilterSpec(name="caption_words", thresholds={"min": words}),
        FilterSpec(name="caption_characters", thresholds={"min": characters}),
    ]


def run(folder: Path, words: int, characters: int, *, measure_all: bool) -> Path:
    stage = filter_stage(
        "web/filter",
        source("web/read"),
        filters(words, characters),
        measure_all=measure_all,
    )
    parts = [captions(*TEXTS[:3]), captions(*TEXTS[3:])]
    return Path(str(run_stage(stage, folder / "run", [write_stage(folder / "read", parts)]).out))


@pytest.mark.parametrize("measure_all", [False, True])
def test_the_account_is_that_of_the_ledger(tmp_path: Path, measure_all: bool):
    folder = run(tmp_path, 2, 6, measure_all=measure_all)
    counts, account = ledger.read_counts(folder), measures.account(folder)
    assert (account.records, account.kept) == (counts.read["document"], counts.kept["document"])
    first = {rule.bound.rule: rule.first for rule in account.rules if rule.first}
    assert first == counts.dropped["document"]


@pytest.mark.parametrize("measure_all", [False, True])
@pytest.mark.parametrize(("words", "characters"), [(1, 1), (1, 10), (3, 6), (4, 1), (2, 6)])
def test_another_run_keeps_what_tune_says(
    tmp_path: Path, words: int, characters: int, measure_all: bool
):
    folder = run(tmp_path / "a", 2, 6, measure_all=measure_all)
    other = run(tmp_path / "b", words, characters, measure_all=False)
    new = [f"caption_too_few_words={words}", f"caption_too_few_characters={characters}"]
    limits = tune.assigned(measures.bounds(folder), new)
    tally = tune.what_if(folder, limits)["document"]
    kept = ledger.read_counts(other).kept["document"]
    assert tally.least <= kept <= tally.least + tally.unsure
    assert not (measure_all and tally.unsure)


floats = st.floats(-1e6, 1e6) | st.sampled_from([0.1, 0.3, 1 / 3, 0.7])


@given(st.lists(floats, min_size=1), floats, st.booleans())
def test_what_is_stored_decides_as_the_rule_did(values: list[float], limit: float, least: bool):
    rule = (below if least else above)("x", np.array([*values, limit, np.nan]), limit)
    bound = Bound.of(measure_field(rule))
    assert bound == Bound("x", **{"min" if least else "max": limit})
    stored = np.asarray(pa.array(rule.values, pa.float32()))
    assert bound.broken(stored).tolist() == rule.drops().tolist()


def test_what_a_filter_did_not_see_is_null():
    table = judge(captions("Cat."), filters(2, 1))
    assert table["caption_too_few_characters"].null_count == 1
    field = table.schema.field("caption_too_few_words")
    assert (field.type, field.metadata) == (pa.float32(), {b"min": b"2.0"})


def test_the_table_of_a_stage(tmp_path: Path):
    rows = [[60, 0, 0.1], [50, 0, 0.25], [20, None, None], [10, 1, None]]
    write_measures(tmp_path, "text/filter", [WORDS, LOREM, SHARE], rows)
    title, heads, *table, _ = lines(tmp_path, None, [], None)
    assert title == "text/filter: 2 of 4 (50.0%) documents kept by its rules"
    assert " ".join(heads.split()) == "rule bound measured kept first alone 5% 50% 95%"
    assert [" ".join(row.split()) for row in table] == [
        "too_few_words >= 50 4 50.0% 2 0 to 1 10 20 60",
        "lorem_ipsum yes or no 3 66.7% 0 0",
        "too_repetitive <= 0.3 2 100.0% 0 0 0.1 0.1 0.25",
    ]


def test_an_answer_that_is_not_known_exactly_says_so(tmp_path: Path):
    rows = [[60, 0, 0.1], [45, 0, 0.2], [20, None, None], [10, 1, None]]
    write_measures(tmp_path, "text/filter", [WORDS, LOREM, SHARE], rows)
    assert list(lines(tmp_path, None, ["too_few_words=15"], None)) == [
        "text/filter",
        "  too_few_words: >= 50, here >= 15",
        "documents",
        "  kept now       1 of 4 (25.0%)",
        "  would be kept  2 to 3 of 4 (50.0% to 75.0%)",
        "  newly kept     1 to 2",
        "  newly dropped  0",
        "  1 were dropped before every rule had measured them; a run with measure_all: true knows",
    ]
