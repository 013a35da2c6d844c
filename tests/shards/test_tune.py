"""Other bounds, asked of measures: exact where everything was measured, a range where not."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards import ledger, measures, schema, tune
from shards.measures import Bound
from shards.storage import Location, Remote, write_table
from shards.tune import Tally, TuneError
from tests.shards.stages import finish, folder_of
from tests.shards.test_measures import LOREM, NONE, SHARE, WORDS, write_measures

RULES = [WORDS, LOREM, SHARE]
ROWS = [[60, 0, 0.1], [50, 0, 0.3], [20, 0, NONE], [10, 1, NONE], [80, 0, 0.31]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_measures(tmp_path, "text/filter", RULES, ROWS[:3], ROWS[3:])


def ask(folder: Location, *assignments: str) -> Tally:
    limits = tune.assigned(measures.bounds(folder), assignments)
    return tune.what_if(folder, limits)["document"]


def test_the_bounds_of_the_run_keep_what_they_kept(folder: Path):
    assert ask(folder) == Tally(read=5, kept=2, least=2)


def test_what_was_measured_is_known_exactly(folder: Path):
    assert ask(folder, "too_repetitive=0.5") == Tally(5, 2, least=3, newly_kept=1)
    assert ask(folder, "too_few_words=55") == Tally(5, 2, least=1, newly_dropped=1)
    assert ask(folder, "too_repetitive=0.2", "too_few_words.max=70") == Tally(
        5, 2, least=1, newly_dropped=1
    )


def test_what_no_later_rule_has_measured_may_be_kept_or_not(folder: Path):
    assert ask(folder, "too_few_words=15") == Tally(5, 2, least=2, unsure=1)
    # Of the fourth it is known: another rule that saw it drops it.
    assert ask(folder, "too_few_words=5") == Tally(5, 2, least=2, unsure=1)
    assert ask(folder, "too_few_words=5", "lorem_ipsum=off").unsure == 2
    # A rule that is off would not have dropped what it has not seen.
    assert ask(folder, "too_few_words=15", "too_repetitive=off") == Tally(
        5, 2, least=4, newly_kept=2
    )


FIELDS = [WORDS, SHARE, pa.field("free", pa.float32(), metadata={})]
rows = st.lists(st.tuples(*[st.integers(0, 9).map(float)] * 3), max_size=30)
limits = st.tuples(*[st.none() | st.integers(0, 9).map(float)] * 3)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows, limits, limits)
def test_the_range_holds_what_another_run_would_keep(tmp_path_factory, measured, before, after):
    """A cascade that stops measuring at the first rule that drops, against one that never does."""

    def keeps(row: tuple[float, ...], bounds: tuple[float | None, ...]) -> list[bool]:
        return [bound is None or value >= bound for value, bound in zip(row, bounds, strict=True)]

    columns = [
        pa.field(f"rule_{i}", pa.float32(), metadata={} if b is None else {"min": str(b)})
        for i, b in enumerate(before)
    ]
    seen = []
    for row in measured:
        passed = [*keeps(row, before), False].index(False)
        seen.append([v if i <= passed else None for i, v in enumerate(row)])
    folder = write_measures(tmp_path_factory.mktemp("run"), "x/filter", columns, seen)
    new = [Bound(f"rule_{i}", min=b) for i, b in enumerate(after)]
    found = tune.what_if(folder, new)["document"]
    kept_before = [all(keeps(row, before)) for row in measured]
    kept = [all(keeps(row, after)) for row in measured]
    assert found.kept == sum(kept_before)
    assert found.least <= sum(kept) <= found.least + found.unsure
    newly = sum(k and not b for k, b in zip(kept, kept_before, strict=True))
    assert found.newly_kept <= newly <= found.newly_kept + found.unsure
    assert found.newly_dropped == sum(b and not k for k, b in zip(kept, kept_before, strict=True))


def write_images(run: Path, sides: list[list[float]], without: int) -> Path:
    """A stage that measured the images of documents, of which some have none."""
    folder = folder_of(run, "pages/image_filters")
    ids = [f"{d}" for d, row in enumerate(sides) for _ in row]
    numbers = [i for row in sides for i in range(len(row))]
    side = pa.field("image_too_small", pa.float32(), metadata={"min": "100.0"})
    fields = pa.schema([("id", pa.string()), ("image", pa.int32()), side])
    columns = [pa.array(ids), pa.array(numbers, pa.int32())]
    columns.append(pa.array([s for row in sides for s in row], pa.float32()))
    write_table(folder / "measures/part-00000.parquet", pa.table(columns, schema=fields))
    counts = {"document": len(sides) + without, "image": len(ids)}
    ledger.write_part(folder, 0, None, schema.DROP.empty_table(), read=counts, kept=counts)
    finish(run, "pages/image_filters")
    return folder


def test_a_document_goes_with_its_last_image(tmp_path: Path):
    folder = write_images(tmp_path, [[50, 120], [60, 70], [300]], without=4)
    before = measures.bounds(folder)
    now = tune.what_if(folder, before)
    assert now == {"image": Tally(5, 2, least=2), "document": Tally(7, 6, least=6)}
    higher = tune.what_if(folder, tune.assigned(before, ["image_too_small=200"]))
    assert higher["document"] == Tally(7, 6, least=5, newly_dropped=1)
    lower = tune.what_if(folder, tune.assigned(before, ["image_too_small=65"]))
    assert lower["image"] == Tally(5, 2, least=3, newly_kept=1)
    assert lower["document"] == Tally(7, 6, least=7, newly_kept=1)


def test_the_bound_that_keeps_a_share(tmp_path: Path):
    rng = np.arange(1000) * 7 % 1000
    rows = [[float(v), 0, float(v % 10) / 10] for v in rng]
    folder = write_measures(tmp_path, "text/filter", RULES, rows[:400], rows[400:])
    before = measures.bounds(folder)
    for rule, share, kept in (("too_few_words", 0.25, 250), ("too_repetitive", 0.19, 190)):
        after = tune.reaching(folder, before, rule, share)
        assert [b.rule for b, a in zip(before, after, strict=True) if a != b] == [rule]
        assert tune.what_if(folder, after)["document"].least == kept
    with pytest.raises(TuneError, match=r"keeps 99.0%: the other rules leave 40.0%"):
        tune.reaching(folder, before, "too_few_words", 0.99)
    with pytest.raises(TuneError, match="yes or no"):
        tune.reaching(folder, before, "lorem_ipsum", 0.1)


def test_the_share_is_of_what_others_leave_and_of_the_tightest_bound(tmp_path: Path):
    rows = [[float(v), 0, 0.0] for v in range(1, 11)]
    folder = write_measures(tmp_path, "text/filter", RULES, rows)
    (words, *_) = tune.reaching(folder, measures.bounds(folder), "too_few_words", 0.3)
    assert words.min == 8


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("too_few_words", "write it as RULE=VALUE"),
        ("=3", "write it as RULE=VALUE"),
        ("too_few_words=many", "too_few_words=many: not a number, nor off"),
        ("lorem_ipsum=1", "lorem_ipsum is yes or no: lorem_ipsum=off is all that can be set"),
    ],
)
def test_mistakes_are_named(folder: Path, assignment: str, message: str):
    with pytest.raises(TuneError, match=message):
        ask(folder, assignment)


def test_a_rule_of_two_bounds_or_none_needs_the_name_of_one(tmp_path: Path):
    both = pa.field("length", pa.float32(), metadata={"min": "1.0", "max": "5.0"})
    folder = write_measures(tmp_path, "text/filter", [both], [[0.0], [3.0], [7.0]])
    with pytest.raises(TuneError, match=r"write length.min=VALUE or length.max=VALUE"):
        ask(folder, "length=3")
    assert ask(folder, "length.max=9").least == 2
    assert ask(folder, "length.min=off", "length.max=2").least == 1


def test_the_stage_is_found_by_its_rules_or_named(tmp_path: Path):
    for name, rules in (("text/filter", [WORDS, LOREM]), ("text/filter-2", [WORDS, SHARE])):
        write_measures(tmp_path, name, rules, [])
    assert tune.stage_for(tmp_path, ["too_repetitive"]) == "text/filter-2"
    assert tune.stage_for(tmp_path, ["too_few_words"], "text/filter") == "text/filter"
    for rules, name, message in (
        (["too_few_words"], None, "name one of the stages that have the rule: text/filter, text/f"),
        (["no_rule"], None, "no rule no_rule; the rules are: text/filter: too_few_words, lorem"),
        (["too_repetitive"], "text/filter", "no rule too_repetitive; the rules are: text/filter:"),
        (["lorem_ipsum", "too_repetitive"], None, "no stage has all of lorem_ipsum, too_repet"),
        ([], "text/dedupe", "text/dedupe: no such stage with measures; there are text/filter, "),
    ):
        with pytest.raises(TuneError, match=message):
            tune.stage_for(tmp_path, rules, name)


def test_a_run_without_measures(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        tune.tunable(tmp_path)
    folder = folder_of(tmp_path, "text/extract")
    ledger.write_part(folder, 0, None, schema.DROP.empty_table(), read={}, kept={})
    finish(tmp_path, "text/extract")
    with pytest.raises(TuneError, match="no finished stage has measures"):
        tune.tunable(tmp_path)


def test_a_run_in_a_bucket_is_asked_alike(bucket: Remote):
    folder = write_measures(bucket / "run", "text/filter", RULES, ROWS[:3], ROWS[3:])
    assert tune.tunable(bucket / "run") == {"text/filter": folder}
    assert ask(folder, "too_repetitive=0.5") == Tally(5, 2, least=3, newly_kept=1)
    (words, *_) = tune.reaching(folder, measures.bounds(folder), "too_few_words", 0.2)
    assert words.min == 60


def test_tallies_are_plain_numbers(folder: Path):
    assert set(map(type, asdict(ask(folder)).values())) == {int}
