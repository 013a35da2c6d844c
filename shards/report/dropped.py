"""Some of the records that each rule dropped."""

from collections.abc import Mapping, Sequence
from heapq import nsmallest
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards import ledger, schema, storage
from shards.report.account import anchor
from shards.report.formats import clip
from shards.report.pictures import Pictures
from shards.report.stages import Stage, Table

DROPPED = 3  # dropped records shown of a stage and reason

Group = tuple[bool, str]  # of the ledger's rows: whether their records were kept, and the reason


def dropped(stages: Sequence[Stage], pictures: Pictures) -> list[Table]:
    """By stage and reason: how many records of each unit, and a few of them."""
    groups = [group for stage in stages for group in _drop_groups(stage)]
    found = pictures.find([row["image"] for group in groups for row in group["rows"]])
    for group in groups:
        group["rows"] = [row | {"picture": found.get(row["image"] or "")} for row in group["rows"]]
    return groups


def _drop_groups(stage: Stage) -> list[Table]:
    """A group for each reason, most records first, and then those of what was only reported."""
    counts, units = stage.counts, dict[Group, dict[str, int]]()
    for only, table in ((False, counts.dropped), (False, counts.errors), (True, counts.reported)):
        for unit, reasons in sorted(table.items()):
            for reason, n in reasons.items():
                units.setdefault((only, reason), {})[unit] = n
    samples = _drop_samples(stage) if units else {}
    about = {"corpus": stage.corpus, "stage": stage.name}
    return [
        about
        | {"reason": reason, "reported": only, "counts": units[only, reason]}
        | {"anchor": anchor(stage.name, reason, *[ledger.REPORTED] * only)}
        | {"rows": samples.get((only, reason), [])}
        for only, reason in sorted(units, key=lambda g: (g[0], -max(units[g].values()), g[1]))
    ]


def _drop_samples(stage: Stage) -> dict[Group, list[Table]]:
    """The records with content whose hashed ids are smallest, by group."""
    best: dict[Group, list[Table]] = {}
    files = ledger.part_files(stage.folder, "ledger")
    for drops in storage.in_parallel(lambda f: _with_content(storage.read_table(f)), files):
        rows = sorted(drops.to_pylist(), key=_by_group)
        for group, mine in groupby(rows, key=_group_of):
            # A pair that is dropped for its image has two rows: the document's comes first.
            single = {row["id"]: row for row in reversed([*best.get(group, []), *mine])}
            best[group] = nsmallest(DROPPED, single.values(), key=_drop_rank)
    return {group: [_drop_row(row) for row in rows] for group, rows in best.items()}


def _with_content(drops: pa.Table) -> pa.Table:
    """The ledger's bounded sample, and a few rows of reasons of which none has content."""
    sample = drops.filter(drops["content"].is_valid())
    bare = set(drops["reason"].unique().to_pylist()) - set(sample["reason"].unique().to_pylist())
    few = [
        drops.filter(pc.equal(drops["reason"], reason)).sort_by("id").slice(0, DROPPED)
        for reason in sorted(bare)
    ]
    return pa.concat_tables([sample, *few])


def _group_of(row: Mapping[str, Any]) -> Group:
    return row["kind"] == ledger.REPORTED, row["reason"]


def _by_group(row: Mapping[str, Any]) -> tuple[Group, str, str]:
    return _group_of(row), row["unit"], row["url"] or ""


def _drop_rank(row: Mapping[str, Any]) -> tuple[bool, str]:
    return not row["content"], schema.digest(row["id"])


def _drop_row(row: Table) -> Table:
    content = " ".join((row["content"] or "").split())
    return row | {"content": clip(content, 260), "detail": clip(row["detail"], 200)}
