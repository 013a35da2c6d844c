"""What a stage would keep within other bounds, from what its rules measured: nothing is run again.

A rule that drops a record hides it from the rules of later filters, unless the run measured all.
What those would have said is then not known, and the answer is a range.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shards import ledger, measures
from shards.measures import Bound, Distribution, Mask, Measured, chosen
from shards.storage import Location

OFF = "off"  # instead of a number: the rule drops nothing


class TuneError(ValueError):
    """A question that a run's measures cannot answer; the message says what can be asked."""


@dataclass(frozen=True)
class Fates:
    """Of each record, whether the run's bounds keep it, and what is sure of the others."""

    before: Mask
    kept: Mask
    dropped: Mask

    def of_documents(self, starts: NDArray[np.int64]) -> "Fates":
        """From images, of which each document's first stands at `starts`, to documents."""
        if not len(starts):
            return Fates(*np.zeros((3, 0), bool))
        some = partial(np.logical_or.reduceat, indices=starts)
        return Fates(some(self.before), some(self.kept), ~some(~self.dropped))


@dataclass
class Tally:
    """Records of a unit, as the bounds of the run and as other bounds have it.

    A record that not every rule has measured may be kept or not: `unsure` are those of which the
    measures do not tell whether the other bounds keep them.
    """

    read: int = 0
    kept: int = 0  # within the run's bounds
    least: int = 0  # within the others, surely
    unsure: int = 0
    newly_kept: int = 0  # surely
    newly_dropped: int = 0

    def add(self, fates: Fates) -> None:
        """Count some more records."""
        before, kept, dropped = fates.before, fates.kept, fates.dropped
        self.read += len(before)
        self.kept += int(before.sum())
        self.least += int(kept.sum())
        self.unsure += int((~kept & ~dropped).sum())
        self.newly_kept += int((kept & ~before).sum())
        self.newly_dropped += int((dropped & before).sum())


def tunable(run: Location) -> dict[str, Location]:
    """The finished stages of a run that have measures, by name.

    Raises:
        FileNotFoundError: there is no run.
        TuneError: no stage of it has measures.
    """
    folders = dict(ledger.stage_folders(run))
    found = {name: folder for name, folder in folders.items() if measures.bounds(folder)}
    if not found:
        raise TuneError(f"{run}: no finished stage has measures; those of filters have")
    return found


def stage_for(run: Location, rules: Sequence[str], name: str | None = None) -> str:
    """The one stage of a run that has all of some rules, or `name` if it has.

    Raises:
        TuneError: there is none, or more than one; says which rules or stages there are.
    """
    known = {n: [b.rule for b in measures.bounds(f)] for n, f in tunable(run).items()}
    if name is not None and name not in known:
        raise TuneError(f"{name}: no such stage with measures; there are {', '.join(known)}")
    looked = {name: known[name]} if name else known
    found = [n for n, mine in looked.items() if set(rules) <= set(mine)]
    if len(found) == 1:
        return found[0]
    if found:
        raise TuneError(f"name one of the stages that have the rule: {', '.join(found)}")
    missing = [rule for rule in rules if not any(rule in mine for mine in looked.values())]
    lists = "; ".join(f"{n}: {', '.join(mine)}" for n, mine in looked.items())
    if missing:
        raise TuneError(f"no rule {', '.join(missing)}; the rules are: {lists}")
    raise TuneError(f"no stage has all of {', '.join(rules)}; the rules are: {lists}")


def rule_of(assignment: str) -> str:
    """The rule that `RULE=VALUE`, `RULE.min=VALUE` or `RULE.max=VALUE` names."""
    key, separator, _ = assignment.partition("=")
    if not separator or not key:
        raise TuneError(f"{assignment}: write it as RULE=VALUE, such as gopher_too_few_words=30")
    return key.removesuffix(".min").removesuffix(".max")


def assigned(limits: Sequence[Bound], assignments: Sequence[str]) -> list[Bound]:
    """`limits` with the `assignments`, each `RULE=VALUE`, made one after the other.

    Raises:
        TuneError: an assignment cannot be read, or its rule has no such bound.
    """
    by_rule = {bound.rule: bound for bound in limits}
    for assignment in assignments:
        rule = rule_of(assignment)
        by_rule[rule] = _assigned(by_rule[rule], *assignment.split("=", 1))
    return list(by_rule.values())


def _assigned(bound: Bound, key: str, value: str) -> Bound:
    limit = None if value == OFF else number(value, key)
    if bound.fixed:
        if limit is not None:
            raise TuneError(f"{bound.rule} is yes or no: {bound.rule}={OFF} is all that can be set")
        return replace(bound, max=None)
    side = key.removeprefix(bound.rule).removeprefix(".") or _side(bound)
    return replace(bound, min=limit) if side == "min" else replace(bound, max=limit)


def _side(bound: Bound) -> Literal["min", "max"]:
    """The one bound that a rule has."""
    if (bound.min is None) == (bound.max is None):
        rule = bound.rule
        raise TuneError(f"{rule} has no one bound: write {rule}.min=VALUE or {rule}.max=VALUE")
    return "max" if bound.min is None else "min"


def number(value: str, key: str) -> float:
    """A number that a user wrote; raises TuneError."""
    try:
        return float(value)
    except ValueError:
        raise TuneError(f"{key}={value}: not a number, nor {OFF}") from None


def what_if(folder: Location, limits: Sequence[Bound]) -> dict[str, Tally]:
    """What a finished stage would keep within `limits`, by unit: "image" and "document".

    A document is dropped with the last of its images; one without any is kept.
    """
    units: dict[str, Tally] = {}
    before = measures.bounds(folder)
    for part in measures.read_measures(folder, [bound.rule for bound in limits]):
        fates = _fates(part, before, limits)
        if part.starts is not None:
            units.setdefault("image", Tally()).add(fates)
            fates = fates.of_documents(part.starts)
        units.setdefault("document", Tally()).add(fates)
    if "image" in units:
        _add_without_images(units["document"], folder)
    return units


def _fates(part: Measured, before: Sequence[Bound], limits: Sequence[Bound]) -> Fates:
    dropped, dropped_before = part.dropped(limits), part.dropped(before)
    off = np.array([bound.min is None and bound.max is None for bound in limits], bool)
    complete = (part.known | off[:, None]).all(axis=0)
    return Fates(~dropped_before, ~dropped & complete, dropped)


def _add_without_images(documents: Tally, folder: Location) -> None:
    without = ledger.read_counts(folder).read["document"] - documents.read
    documents.read += without
    documents.kept += without
    documents.least += without


def reaching(folder: Location, limits: Sequence[Bound], rule: str, share: float) -> list[Bound]:
    """`limits` with that bound of `rule` at which the stage keeps `share` of what it reads.

    The bound is that of the stage's own unit: images where it filters images.

    Raises:
        TuneError: the other rules leave fewer, or the rule has no bound to choose.
    """
    bound = next(bound for bound in limits if bound.rule == rule)
    if bound.fixed:
        raise TuneError(f"{rule} is yes or no: it has no bound to choose")
    _side(bound)
    values, left, read = _left_by_others(folder, limits, bound)
    wanted = share * read
    if not 0 < wanted <= left:
        most = left / read if read else 0.0
        raise TuneError(f"no bound of {rule} keeps {share:.1%}: the other rules leave {most:.1%}")
    return chosen(limits, [_keeping(bound, values, wanted, left)])


def _keeping(bound: Bound, measured: Distribution, wanted: float, left: int) -> Bound:
    """The tightest bound within which at least `wanted` of `left` records are, NaN among them."""
    values, counts = measured.counts()
    upto = np.cumsum(counts)
    wanted = max(wanted - (left - int(counts.sum())), 1)
    if _side(bound) == "max":
        return replace(bound, max=float(values[np.searchsorted(upto, wanted)]))
    below = upto[-1] - wanted
    return replace(bound, min=float(values[np.searchsorted(upto, below, side="right")]))


def _left_by_others(
    folder: Location, limits: Sequence[Bound], bound: Bound
) -> tuple[Distribution, int, int]:
    """What `bound` measured of records that all others keep, how many those are, and all read."""
    values, left, read = Distribution(), 0, 0
    without = chosen(limits, [Bound(bound.rule)])
    place = [limit.rule for limit in limits].index(bound.rule)
    for part in measures.read_measures(folder, [limit.rule for limit in limits]):
        kept = _fates(part, without, without).kept & part.known[place]
        values.add(part.values[place][kept])
        left, read = left + int(kept.sum()), read + len(kept)
    return values, left, read
