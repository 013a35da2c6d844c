from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixers.plan import Plan, PlanError, mixture, period, shares

MM1 = {"interleaved": 45, "captions": 45, "text": 10}

weights = st.dictionaries(
    st.sampled_from(["captions", "interleaved", "text", "code", "math"]),
    st.integers(1, 60),
    min_size=1,
)


def prefix_counts(plan: Plan):
    used = dict.fromkeys(plan.names, 0)
    for n, name in enumerate(plan.corpora(0, plan.total), start=1):
        used[name] += 1
        yield n, used


def test_mm1_repeats_after_twenty_positions():
    pattern = period(MM1)
    assert len(pattern) == 20
    assert [int((pattern == c).sum()) for c in range(3)] == [9, 9, 2]


@given(weights, st.data())
def test_every_prefix_is_within_one_sequence_of_the_ratio(weights, data):
    available = {name: data.draw(st.integers(0, 300)) for name in weights}
    plan, exact = Plan(weights, available), shares(weights)
    for n, used in prefix_counts(plan):
        assert all(abs(used[name] - exact[name] * n) < 1 for name in weights)


@given(weights, st.data())
def test_it_stops_where_the_first_corpus_runs_out_and_never_before(weights, data):
    available = {name: data.draw(st.integers(0, 300)) for name in weights}
    plan = Plan(weights, available)
    used = plan.used(plan.total)
    assert all(used[name] <= available[name] for name in weights)
    assert used[plan.stopped_by] == available[plan.stopped_by]
    assert plan.corpora(plan.total, plan.total + 1) == [plan.stopped_by]


@given(weights, st.integers(0, 500), st.integers(0, 500))
def test_counts_and_positions_agree_with_a_walk(weights, first, length):
    plan = Plan(weights, dict.fromkeys(weights, 10_000))
    walked = plan.corpora(0, first + length)
    for name in plan.names:
        places = [p for p, other in enumerate(walked) if other == name]
        assert plan.used(first)[name] == sum(p < first for p in places)
        assert [plan.position(name, k) for k in range(len(places))] == places


def test_fractions_are_exact():
    assert shares({"a": 0.1, "b": 0.2})["a"] == Fraction(1, 3)


@pytest.mark.parametrize("bad", [{}, {"a": 0}, {"a": -1, "b": 2}])
def test_impossible_weights_are_refused(bad):
    with pytest.raises(PlanError, match="above zero"):
        shares(bad)


def test_weights_that_hardly_ever_repeat_are_refused():
    with pytest.raises(PlanError, match="round them"):
        period({"a": 0.1234567, "b": 0.7654321, "c": 0.9999999})


sources = st.dictionaries(
    st.sampled_from(["cc12m", "coyo", "vecap"]), st.integers(1, 20), min_size=1
)


def walk(weights, inner, available):
    """The groups of a mixture by its definition: a corpus, then its source, until one runs out."""
    left, used, found = dict(available), dict.fromkeys(weights, 0), []
    for corpus in Plan(weights, dict.fromkeys(weights, 10**6)).corpora(0, 3000):
        group = corpus
        if corpus in inner:
            endless = Plan(inner[corpus], dict.fromkeys(inner[corpus], 10**6))
            (source,) = endless.corpora(used[corpus], used[corpus] + 1)
            group = f"{corpus}/{source}"
        if left[group] == 0:
            return found, group
        left[group], used[corpus] = left[group] - 1, used[corpus] + 1
        found.append(group)
    raise AssertionError("something runs out")


@given(weights, sources, st.data())
def test_sources_are_mixed_within_their_corpus_as_corpora_are(weights, sources, data):
    inner = {data.draw(st.sampled_from(sorted(weights))): sources}
    names = {name for name in weights if name not in inner}
    names |= {f"{corpus}/{name}" for corpus in inner for name in inner[corpus]}
    available = {name: data.draw(st.integers(0, 60)) for name in sorted(names)}
    mixed = mixture(weights, inner, available)
    found, stopped_by = walk(weights, inner, available)
    assert mixed.groups(0, mixed.total) == found
    assert mixed.stopped_by == stopped_by
    for position in {0, mixed.total // 2, mixed.total}:
        assert mixed.used(position) == {name: found[:position].count(name) for name in names}
        assert mixed.groups(position, mixed.total) == found[position:]


def test_every_prefix_of_a_corpus_has_its_sources_within_one_sequence():
    vecap = {"web": 93, "vecap": 7}  # of MM1's caption data 7 % are VeCap's
    available = {"text": 900, "interleaved": 900, "captions/web": 900, "captions/vecap": 900}
    mixed = mixture(MM1, {"captions": vecap}, available)
    groups = [g for g in mixed.groups(0, mixed.total) if g.startswith("captions/")]
    for n in range(1, len(groups) + 1):
        assert abs(groups[:n].count("captions/vecap") - 0.07 * n) < 1
