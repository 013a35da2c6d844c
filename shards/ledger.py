"""The account of every record: what each stage read, kept and dropped, and why.

A stage writes its output in parts. Beside the documents of a part stand one row a dropped record
(`schema.DROP`) and a small file of counts, which is written last: a part with counts is complete.

In a run's folder, `run.json` lists the stages, and each finished one has

    captions/clip/stage.json               what it did, and which folder is the current one
    captions/clip/5d0c1b.../documents/     its output, in a folder named by fingerprint

so that a stage is committed by writing one small file, which object stores do whole as well, and
workers of an abandoned run can never write into the output of another.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards import schema
from shards.storage import (
    Location,
    exists,
    in_parallel,
    names,
    read_json,
    read_table,
    write_json,
    write_table,
)

RUN_FILE = "run.json"  # the stages of a run, in order
STAGE_FILE = "stage.json"  # what a finished stage says of itself
REPORTED = "reported"  # the kind of a row that tells of a record that was kept
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
    reported: dict[str, dict[str, int]] = field(default_factory=dict)  # of those that were kept

    @property
    def unit(self) -> str:
        """What a stage's progress is told in: documents or, where it reads none, sequences."""
        return "sequence" if self.read and "document" not in self.read else "document"

    def lost(self, unit: str) -> int:
        """Records of `unit` that were dropped or failed."""
        return sum(self.dropped.get(unit, {}).values()) + sum(self.errors.get(unit, {}).values())

    def lost_to(self, unit: str, reasons: Collection[str]) -> int:
        """Records of `unit` that were dropped for one of some reasons."""
        found = self.dropped.get(unit, {})
        return sum(n for reason, n in found.items() if reason in reasons)

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
    return Counts(dict(read), dict(kept), dropped, errors, _by_reason(drops, REPORTED))


def total(parts: Iterable[Counts]) -> Counts:
    """The counts of a stage from those of its parts."""
    result = Counts()
    for part in parts:
        for mine, more in ((result.read, part.read), (result.kept, part.kept)):
            for unit, n in more.items():
                mine[unit] = mine.get(unit, 0) + n
        for sums, extra in (
            (result.dropped, part.dropped),
            (result.errors, part.errors),
            (result.reported, part.reported),
        ):
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
    """Keep `content` for the records of each reason and kind whose hashed ids are smallest."""
    rows = drops.to_pylist()
    seen: Counter[tuple[str, str, str]] = Counter()
    for row in sorted(rows, key=lambda row: (schema.digest(row["id"]), row["url"] or "")):
        group = row["unit"], row["reason"], row["kind"]
        seen[group] += 1
        if seen[group] > SAMPLES:
            row["content"] = None
    return pa.Table.from_pylist(rows, schema=schema.DROP)


def part_name(part: int) -> str:
    """The file name, without its suffix, of a part."""
    return f"part-{part:05d}"


def part_is_done(folder: Location, part: int) -> bool:
    """Whether everything of a part has been written."""
    return exists(folder / "counts" / f"{part_name(part)}.json")


def write_part(
    folder: Location,
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
    counts.check(f"{folder.parent.name}, part {part}")
    if output is not None:
        write_table(folder / kind / f"{part_name(part)}.parquet", output)
    write_table(folder / "ledger" / f"{part_name(part)}.parquet", _bound_samples(drops))
    write_json(folder / "counts" / f"{part_name(part)}.json", asdict(counts))


def parts_done(folder: Location) -> set[str]:
    """The names of the parts that have been written, by one listing."""
    return {name.removesuffix(".json") for name in names(folder / "counts")}


def sum_counts(folder: Location, parts: int) -> Counts:
    """The counts of a stage that is written but not committed, summed over its parts."""
    files = [folder / "counts" / f"{part_name(part)}.json" for part in range(parts)]
    return total(Counts(**counts) for counts in in_parallel(read_json, files))


# Finished stages


def commit(home: Location, about: Mapping[str, Any]) -> None:
    """Make `home / about["folder"]` the current output of the stage at `home`."""
    write_json(home / STAGE_FILE, about)


def about(home: Location) -> dict[str, Any] | None:
    """What the finished stage at `home` says of itself; None if it is not finished."""
    try:
        said: dict[str, Any] = read_json(home / STAGE_FILE)
    except FileNotFoundError:
        return None
    return said


def current(home: Location) -> Location:
    """The folder of a stage's current output; raises FileNotFoundError if it is not finished."""
    return home / str(read_json(home / STAGE_FILE)["folder"])


def read_counts(folder: Location) -> Counts:
    """The counts of a finished stage."""
    return Counts(**_manifest(folder)["counts"])


def part_count(folder: Location) -> int:
    """How many parts a finished stage has."""
    return int(_manifest(folder)["parts"])


def part_files(folder: Location, kind: str) -> list[Location]:
    """The files of one kind ("documents", "ledger", "index", ...) that a finished stage wrote."""
    said = _manifest(folder)
    if kind not in said["holds"]:
        return []
    return [folder / kind / f"{part_name(part)}.parquet" for part in range(said["parts"])]


def _manifest(folder: Location) -> dict[str, Any]:
    said: dict[str, Any] = read_json(folder.parent / STAGE_FILE)
    if said["folder"] != folder.name:
        raise FileNotFoundError(2, "is not the stage's current output", str(folder))
    return said


def stage_folders(run: Location) -> Iterator[tuple[str, Location]]:
    """The finished stages of a run as (name, folder), in the order of the recipe.

    Raises:
        FileNotFoundError: there is no run.
    """
    names_in_order = read_json(run / RUN_FILE)["stages"]
    said = in_parallel(lambda name: about(run / name), names_in_order)
    for name, stage in zip(names_in_order, said, strict=True):
        if stage is not None:
            yield name, run / name / stage["folder"]


def read_drops(folder: Location, *, columns: list[str] | None = None) -> pa.Table:
    """All dropped records of a finished stage."""
    files = part_files(folder, "ledger")
    tables = in_parallel(lambda file: read_table(file, columns), files)
    if not tables:
        return schema.DROP.empty_table().select(columns or schema.DROP.names)
    return pa.concat_tables(tables)
