"""Rules: what is measured, the bounds it is held to, and the reason that comes of it."""

import numpy as np
import pyarrow as pa
import pytest

from filters.rules import Rule, above, below, flag, measured, reasons, share


@pytest.mark.parametrize(
    ("rule", "dropped"),
    [
        (below("few", np.array([1, 2, 3]), 2), [True, False, False]),
        (above("many", np.array([1, 2, 3]), 2), [False, False, True]),
        (below("few", np.array([1, 2, 3]), None), [False, False, False]),
        (Rule("outside", np.array([1, 2, 3]), min=2, max=2), [True, False, True]),
        (above("many", np.array([np.nan, 0.1, 0.2]), 0.1), [False, False, True]),
        (below("few", np.array([np.nan, 0.1, 0.0]), 0.1), [False, False, True]),
        (flag("is", np.array([True, False])), [True, False]),
    ],
)
def test_a_rule_drops_what_is_outside_its_bounds(rule: Rule, dropped: list[bool]) -> None:
    assert rule.drops().tolist() == dropped


def test_a_flag_has_no_bound_to_choose() -> None:
    rule = flag("is", np.array([True, False]))
    assert (rule.fixed, rule.values.tolist()) == (True, [1.0, 0.0])
    assert not above("many", np.array([1.0]), 0.0).fixed


def test_the_first_rule_that_holds_gives_the_reason() -> None:
    first, second = np.array([False, True, True]), np.array([True, True, False])
    column = reasons([flag("first", first), flag("second", second)])
    assert column.to_pylist() == ["second", "first", "first"]
    assert reasons([flag("first", first)]).to_pylist() == [None, "first", "first"]
    assert column.type == pa.string()


def test_a_share_of_nothing_is_none() -> None:
    assert share(np.array([1, 1, 0]), np.array([2, 0, 0])).tolist() == [0.5, 0.0, 0.0]


def test_measures_are_numbers() -> None:
    assert measured(len, ["ab", ""]).tolist() == [2.0, 0.0]
