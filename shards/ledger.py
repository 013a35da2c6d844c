"""The account of every record: what each stage read, kept and dropped, and why.

A stage writes its output in parts. Beside the documents of a part stand one row a dropped record
(`schema.DROP`) and a small file of counts, which is written last: a part with counts is complete.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards import schema
from shards.storage import read_json, read_table, write_json, write_table

STAGE_FILE = "stage.json"  # what a finished stage says of itself
SAMPLES = 6  # dropped records a part and reason that keep their content for the report


class LedgerError(RuntimeError):
    """A stage lost or invented records; nothing that follows from it can be trusted."""


@dataclass
class Counts:
    """Records by unit ("document", "image"), and the dropped ones also by reason."""

    read: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    errors: dict[str, dict[str, int]] = field(default_factory=dict)

    def lost(self, unit: str) -> int:
        """Records of `unit` that were dropped or failed."""
        return sum(self.dropped.get(unit, {}).values()) + sum(self.errors.get(unit, {}).values())

    def check(self, where: str) -> None:
        """Raise `LedgerError` unless read = kept + dropped + errors for every unit."""
        for unit in self.read.keys() | self.kept.keys() | self.dropped.keys() | self.errors.keys():
            read, kept = self.read.get(unit, 0), self.kept.get(unit, 0)
            if read != kept + self.lost(unit):
                raise LedgerError(
                    f"{where}: {read} {unit}s read, but {kept} kept and {self.lost(unit)} lost"
                )


def _by_reason(drops: pa.Table, kind: str) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    rows = drops.filter(pc.equal(drops["kind"], kind))
    for unit, reason in zip(rows["unit"].to_pylist(), rows["reason"].to_pylist(), strict=True):
        counts.setdefault(unit, Counter())[reason] += 1
    return {unit: dict(sorted(reasons.items())) for unit, reasons in sorted(counts.items())}


def count(read: Mapping[str, int], kept: Mapping[str, int], drops: pa.Table) -> Counts:
    """The counts of a part."""
    dropped, errors = _by_reason(drops, "dropped"), _by_reason(drops, "error")
    return Counts(dict(read), dict(kept), dropped, errors)


def total(parts: Iterable[Counts]) -> Counts:
    """The counts of a stage from those of its parts."""
    result = Counts()
    for part in parts:
        for mine, more in ((result.read, part.read), (result.kept, part.kept)):
            for unit, n in more.items():
                mine[unit] = mine.get(unit, 0) + n
        for sums, extra in ((result.dropped, part.dropped), (result.errors, part.errors)):
            for unit, reasons in extra.items():
                merged = Counter(sums.get(unit, {})) + Counter(reasons)
                sums[unit] = dict(sorted(merged.items()))
    return result


def drop_rows(
    batch: pa.Table,
    reasons: Sequence[str | None],
    *,
    details: Sequence[str | None] | None = None,
) -> pa.Table:
    """A `schema.DROP` row for every document of `batch` that has a reason."""
    lost = [i for i, reason in enumerate(reasons) if reason is not None]
    documents = batch.take(pa.array(lost, pa.int64())).to_pylist()
    rows = [
        drop_row(document, str(reasons[i]), detail=details[i] if details else None)
        for i, document in zip(lost, documents, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schema.DROP)


def drop_row(
    document: Mapping[str, Any], reason: str, *, detail: str | None = None
) -> dict[str, Any]:
    """The ledger's row of one dropped document."""
    parts = document["parts"]
    shown = [p for p in parts if p["text"] is None]
    content = " ".join(p["text"] for p in parts if p["text"] is not None)
    return {
        "id": document["id"],
        "unit": "document",
        "reason": reason,
        "kind": "dropped",
        "url": document["url"] or (shown[0]["url"] if shown else None),
        "detail": detail,
        "content": content[:500],
        "image": shown[0]["image"] if shown else None,
    }


def image_drop_row(
    document_id: str, part: Mapping[str, Any], reason: str, *, detail: str | None = None
) -> dict[str, Any]:
    """The ledger's row of one image that was taken out of a document."""
    return {
        "id": document_id,
        "unit": "image",
        "reason": reason,
        "kind": "dropped",
        "url": part["url"],
        "detail": detail,
        "content": part["alt"],
        "image": part["image"],
    }


def _bound_samples(drops: pa.Table) -> pa.Table:
    """Keep `content` for the records of each reason whose hashed ids are smallest."""
    rows = drops.to_pylist()
    seen: Counter[tuple[str, str]] = Counter()
    for row in sorted(rows, key=lambda row: (schema.digest(row["id"]), row["url"] or "")):
        seen[row["unit"], row["reason"]] += 1
        if seen[row["unit"], row["reason"]] > SAMPLES:
            row["content"] = None
    return pa.Table.from_pylist(rows, schema=schema.DROP)


def part_name(part: int) -> str:
    """The file name, without its suffix, of a part."""
    return f"part-{part:05d}"


def part_is_done(folder: Path, part: int) -> bool:
    """Whether everything of a part has been written."""
    return (folder / "counts" / f"{part_name(part)}.json").exists()


def write_part(
    folder: Path,
    part: int,
    output: pa.Table | None,
    drops: pa.Table,
    *,
    read: Mapping[str, int],
    kept: Mapping[str, int],
    kind: str = "documents",
) -> None:
    """Write a part's table, its ledger and, last, its counts; raise `LedgerError` if they clash."""
    counts = count(read, kept, drops)
    counts.check(f"{folder.name}, part {part}")
    if output is not None:
        write_table(folder / kind / f"{part_name(part)}.parquet", output)
    write_table(folder / "ledger" / f"{part_name(part)}.parquet", _bound_samples(drops))
    write_json(folder / "counts" / f"{part_name(part)}.json", asdict(counts))


def read_counts(folder: Path) -> Counts:
    """The counts of a whole stage, summed over its parts."""
    return total(Counts(**read_json(path)) for path in sorted((folder / "counts").glob("*.json")))


def stage_folders(run: Path) -> Iterator[tuple[str, Path]]:
    """The finished stages of a run as (name, folder), by the order in which they were made."""
    files = [f for pattern in ("*", "*/*") for f in run.glob(f"{pattern}/{STAGE_FILE}")]
    folders = [file.parent for file in files if not file.parent.name.startswith(".")]
    about = [(read_json(folder / STAGE_FILE), folder) for folder in folders]
    for stage, folder in sorted(about, key=lambda pair: (pair[0]["order"], pair[0]["stage"])):
        yield stage["stage"], folder


def read_drops(folder: Path, *, columns: list[str] | None = None) -> pa.Table:
    """All dropped records of a stage."""
    tables = [read_table(p, columns=columns) for p in sorted((folder / "ledger").glob("*.parquet"))]
    if not tables:
        return schema.DROP.empty_table().select(columns or schema.DROP.names)
    return pa.concat_tables(tables)
