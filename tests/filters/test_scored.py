"""Filters on scores: what a step has measured is within bounds or not."""

import pytest

from filters.rules import Filter, reasons
from filters.scored import FILTERS, flagged_words, lines, perplexity, quality, scored
from shards import schema


def given(name: str, *values: float):
    rows = [schema.document("web", str(i), [schema.text_part("x")]) for i in range(len(values))]
    return schema.with_score(schema.documents(rows), name, values)


@pytest.mark.parametrize(
    ("rule", "kept", "dropped", "reason"),
    [
        (lines, 0.05, 0.051, "lines_too_much_removed"),
        (flagged_words, 0.01, 0.011, "flagged_words_too_many"),
        (quality, 0.5, 0.49, "quality_too_low"),
        (perplexity, 1500.0, 1501.0, "perplexity_too_high"),
    ],
)
def test_a_published_bound(rule: Filter, kept: float, dropped: float, reason: str):
    batch = given(rule.__name__, kept, dropped)
    assert reasons(rule(batch)).to_pylist() == [None, reason]


def test_bounds_can_be_moved():
    batch = given("flagged_words", 0.0, 0.001)
    assert reasons(flagged_words(batch, max_share=0)).to_pylist() == [
        None,
        "flagged_words_too_many",
    ]


@pytest.mark.parametrize("name", FILTERS)
def test_a_document_without_the_score_is_kept(name: str):
    batch = given("another", 0.0, 1e9)
    assert reasons(FILTERS[name](batch)).to_pylist() == [None, None]


def test_scores_stand_beside_each_other_and_are_replaced():
    batch = schema.with_score(given("a", 1.0, 2.0), "b", [3.0, float("nan")])
    assert batch["scores"].to_pylist() == [[("a", 1.0), ("b", 3.0)], [("a", 2.0)]]
    again = schema.with_score(batch, "a", [4.0, float("nan")])
    assert again["scores"].to_pylist() == [[("b", 3.0), ("a", 4.0)], []]


def test_any_score_can_have_bounds():
    batch = given("dfn", 0.1, 0.2, 0.3)
    assert reasons(scored(batch, name="dfn", min=0.2, max=0.25)).to_pylist() == [
        "dfn_too_low",
        None,
        "dfn_too_high",
    ]
