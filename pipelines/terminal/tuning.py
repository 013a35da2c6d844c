"""What `mixwright tune` prints."""

from collections.abc import Iterator, Mapping, Sequence

from shards import ledger, measures, tune
from shards.measures import Account, Bound, RuleAccount
from shards.storage import Location
from shards.tune import Tally

QUANTILES = (0.05, 0.5, 0.95)
WIDTHS = (12, 9, 12, 22, 11, 11, 11)  # of a table's columns behind rule and bound


def lines(
    run: Location, stage: str | None, assignments: Sequence[str], target: str | None
) -> Iterator[str]:
    """What the rules of a run's stages did or, given other bounds, what those would keep.

    Raises:
        FileNotFoundError: there is no run.
        TuneError: there is no such stage or rule, or the bounds cannot be read.
    """
    if assignments or target is not None:
        yield from _answer(run, stage, assignments, target)
        return
    found = tune.tunable(run)
    for name in [tune.stage_for(run, [], stage)] if stage else found:
        yield from _table(name, found[name], measures.account(found[name]))


def _answer(
    run: Location, stage: str | None, assignments: Sequence[str], target: str | None
) -> Iterator[str]:
    wanted = [*assignments, *([target] if target is not None else [])]
    name = tune.stage_for(run, [tune.rule_of(each) for each in wanted], stage)
    folder = ledger.current(run / name)
    before = measures.bounds(folder)
    after = tune.assigned(before, assignments)
    if target is not None:
        rule, share = tune.rule_of(target), target.partition("=")[2]
        after = tune.reaching(folder, after, rule, tune.number(share, rule))
    yield from _outcome(name, before, after, tune.what_if(folder, after))


def _table(name: str, folder: Location, account: Account) -> Iterator[str]:
    """The rules of a stage: bounds, what they dropped, and how their measures are spread."""
    unit = "image" if "image" in ledger.read_counts(folder).read else "document"
    yield f"{name}: {_of(account.kept, account.records)} {unit}s kept by its rules"
    width = max(len(rule.bound.rule) for rule in account.rules)
    heads = ("measured", "kept", "first", "alone", *(f"{q:.0%}" for q in QUANTILES))
    yield f"  {'rule':<{width}}  {'bound':>16}" + _row(heads)
    for rule in account.rules:
        yield f"  {rule.bound.rule:<{width}}  {_limits(rule.bound):>16}{_cells(rule)}"
    yield "  kept: of those measured; first: dropped by no rule before; alone: by no other rule"


def _cells(rule: RuleAccount) -> str:
    kept = f"{1 - rule.broken / rule.measured:.1%}" if rule.measured else ""
    counts = [f"{rule.measured:,}", kept, f"{rule.first:,}"]
    alone = _range(rule.alone, rule.alone + rule.unsure)
    told = rule.measured and not rule.bound.fixed
    spread = [f"{rule.values.quantile(q):.4g}" for q in QUANTILES] if told else []
    return _row([*counts, alone, *spread])


def _row(cells: Sequence[str]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=False))


def _limits(bound: Bound) -> str:
    """The values that a bound keeps."""
    if bound.min is None and bound.max is None:
        return "off"
    if bound.fixed:
        return "yes or no"
    if bound.max is None:
        return f">= {bound.min:.7g}"
    return f"<= {bound.max:.7g}" if bound.min is None else f"{bound.min:.7g} to {bound.max:.7g}"


def _outcome(
    name: str, before: Sequence[Bound], after: Sequence[Bound], units: Mapping[str, Tally]
) -> Iterator[str]:
    """What a stage would keep within other bounds."""
    yield name
    for old, new in zip(before, after, strict=True):
        if old != new:
            yield f"  {new.rule}: {_limits(old)}, here {_limits(new)}"
    for unit, tally in units.items():
        yield f"{unit}s"
        yield f"  kept now       {_of(tally.kept, tally.read)}"
        yield f"  would be kept  {_of(tally.least, tally.read, tally.unsure)}"
        yield f"  newly kept     {_range(tally.newly_kept, tally.newly_kept + tally.unsure)}"
        yield f"  newly dropped  {tally.newly_dropped:,}"
        if tally.unsure:
            yield (
                f"  {tally.unsure:,} were dropped before every rule had measured them; a run with "
                "measure_all: true knows"
            )


def _of(n: int, whole: int, more: int = 0) -> str:
    shares = [f"{k / whole:.1%}" if whole else "none" for k in (n, n + more)]
    return f"{_range(n, n + more)} of {whole:,} ({' to '.join(dict.fromkeys(shares))})"


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
