"""How many records each stage read, kept and lost, and what it cost."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from shards import schema
from shards.report.formats import clip
from shards.report.stages import Stage, Table


def funnels(stages: Sequence[Stage]) -> list[Table]:
    """By corpus, its stages, as `in_order` has them.

    Bars are relative to the most records of their unit in the corpus.
    """
    corpora = groupby(stages, key=lambda stage: stage.corpus)
    return [_funnel(name, list(mine)) for name, mine in corpora]


def _funnel(corpus: str, stages: Sequence[Stage]) -> Table:
    most: Counter[str] = Counter()
    for stage in stages:
        for unit, n in stage.counts.read.items():
            most[unit] = max(most[unit], n)
    rows = [row for stage in stages for row in _accounts(stage, most)]
    documents = [row for row in rows if row["unit"] == "document"]
    return {
        "corpus": corpus,
        "rows": rows,
        "read": documents[0]["read"] if documents else 0,
        "kept": documents[-1]["kept"] if documents else 0,
    }


def _accounts(stage: Stage, most: Mapping[str, int]) -> Iterator[Table]:
    """One row a unit that the stage counts, without the reasons if the row before has the same."""
    counts, shown = stage.counts, None
    for unit in sorted(counts.read):
        dropped, errors = counts.dropped.get(unit, {}), counts.errors.get(unit, {})
        read, kept = counts.read[unit], counts.kept.get(unit, 0)
        whole = most[unit] or 1
        sums = {"kept": kept, "dropped": sum(dropped.values()), "errors": sum(errors.values())}
        reasons = sorted((dropped | errors).items(), key=lambda pair: (-pair[1], pair[0]))
        linked = [] if reasons == shown else [(r, n, anchor(stage.name, r)) for r, n in reasons]
        shown = reasons
        yield {
            "stage": stage.name,
            "step": stage.name.rpartition("/")[2],
            "unit": unit,
            "read": read,
            **sums,
            "shares": {kind: n / whole for kind, n in sums.items()},
            "adds_up": read == sum(sums.values()),
            "reasons": linked,
        }


def anchor(*names: str) -> str:
    """The name of the place on the page where a stage's drops for a reason are shown."""
    return "drop-" + schema.digest(*names)[:10]


def costs(stages: Sequence[Stage], price: float | None) -> Table:
    """Core seconds of each stage's own code, and what they cost at `price` a core hour."""
    rows = [_cost(stage, price) for stage in stages]
    seconds = sum(row["seconds"] for row in rows)
    return {"rows": rows, "seconds": seconds, "cost": _dollars(seconds, price), "price": price}


def _cost(stage: Stage, price: float | None) -> Table:
    seconds = stage.about["seconds"]
    unit = min(stage.counts.read, default=None)  # "document" comes before "image"
    read = stage.counts.read[unit] if unit else 0
    about = {"name": stage.name, "corpus": stage.corpus, "unit": unit, "read": read}
    rate = read / seconds if read and seconds else None
    return about | {"seconds": seconds, "rate": rate, "cost": _dollars(seconds, price)}


def _dollars(seconds: float, price: float | None) -> float | None:
    return None if price is None else seconds / 3600 * price


def provenance(stage: Stage) -> Table:
    """What a stage's output was made from: config, code and inputs."""
    pieces = stage.about.get("pieces", {})
    return {
        "name": stage.name,
        "corpus": stage.corpus,
        "fingerprint": stage.about.get("fingerprint", ""),
        "code": pieces.get("code", ""),
        "inputs": sorted(pieces.get("inputs", {})),
        "config": clip(json.dumps(pieces.get("config"), indent=1, ensure_ascii=False), 4000),
        "parts": stage.about.get("parts"),
    }
