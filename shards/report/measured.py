"""How what rules measured is spread, and what each of them dropped."""

from collections.abc import Sequence

import numpy as np

from shards import measures
from shards.measures import Bound, RuleAccount
from shards.report.bars import bars, measure_edges
from shards.report.formats import short
from shards.report.stages import Stage, Table


def measured(stages: Sequence[Stage]) -> list[Table]:
    """By stage, how what its rules measured is spread, and what each rule dropped."""
    found = [_measured_by(s) for s in stages if measures.MEASURES in s.about["holds"]]
    return [about for about in found if about["plots"] or about["flags"]]


def _measured_by(stage: Stage) -> Table:
    account = measures.account(stage.folder)
    shown = [rule for rule in account.rules if rule.measured]
    return {
        "stage": stage.name,
        "corpus": stage.corpus,
        "records": account.records,
        "unit": "image" if "image" in stage.counts.read else "document",
        "plots": [p for rule in shown if not rule.bound.fixed for p in _measures(stage, rule)],
        "flags": [rule for rule in shown if rule.bound.fixed],
    }


def _measures(stage: Stage, rule: RuleAccount) -> list[Table]:
    """The histogram of a rule."""
    values, counts = rule.values.counts()
    finite = values[np.isfinite(values)]
    if not len(finite):
        return []
    values, bound = np.clip(values, finite[0], finite[-1]), _as_counted(rule.bound)
    edges = measure_edges(values, counts, bound)
    heights = np.histogram(values, edges, weights=counts)[0].astype(int).tolist()
    plot = bars(stage.corpus, heights, edges.tolist(), bound)
    plot["bars"] = [bar for bar in plot["bars"] if bar["height"]]
    bounded = bound.min is not None or bound.max is not None
    dropped = f", {rule.first:,} dropped" if bounded else ""
    summary = f"{rule.measured:,} measured, median {short(rule.values.quantile(0.5))}{dropped}"
    return [plot | {"title": rule.bound.rule, "summary": summary}]


def _as_counted(bound: Bound) -> Bound:
    """A bound that is rounded as the values of a distribution are."""
    low, high = (
        None if limit is None else float(measures.rounded(np.array([limit], np.float32))[0])
        for limit in (bound.min, bound.max)
    )
    return Bound(bound.rule, low, high)
