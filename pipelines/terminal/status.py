"""How far a run is, told by files in its folder: the same on every engine and from any terminal.

Runners differ in what they say while a job runs: Beam's local one and the job servers of Spark
and Flink give their metrics at its end only. A part's counts are written the moment that it is
complete, so progress is read from there, and Beam's metrics are kept with the finished stage.
"""

import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from shards import ledger
from shards.ledger import Counts
from shards.storage import Location, in_parallel, names, read_bytes, read_json, write_json

STATUS_FILE = "status.json"
HEARTBEAT_SECONDS = 10.0
SILENT_SECONDS = 60.0  # without a heartbeat a run is taken for dead

State = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Status:
    """What the submitting process last said."""

    state: State
    engine: str
    host: str
    pid: int
    started: float  # seconds since the epoch, as the next
    updated: float
    # The stages that are being written: name to (folder below the stage's, number of parts).
    wave: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def silent(self) -> bool:
        """Whether it says that it runs, but has not been heard of for a while."""
        return self.state == "running" and time.time() - self.updated > SILENT_SECONDS


def begin(run: Location, stages: list[str], engine: str, about: Mapping[str, Any]) -> Status:
    """Write `run.json`, the list of stages that readers go by, and the first status."""
    write_json(run / ledger.RUN_FILE, {**about, "engine": engine, "stages": stages})
    now = time.time()
    return tell(run, Status("running", engine, socket.gethostname(), os.getpid(), now, now))


def tell(run: Location, status: Status) -> Status:
    """Write a status, dated now."""
    dated = replace(status, updated=time.time())
    write_json(run / STATUS_FILE, asdict(dated))
    return dated


def end(run: Location, state: State) -> None:
    """Write how the run ended, with the stages that it was at."""
    tell(run, replace(Status(**read_json(run / STATUS_FILE)), state=state))


def read_status(run: Location) -> Status | None:
    """The last status; None if the run never began."""
    try:
        return Status(**read_json(run / STATUS_FILE))
    except FileNotFoundError:
        return None


@dataclass
class Reached:
    """How far a stage is; `look` reads what has been written since."""

    folder: Location
    parts: int
    counts: Counts = field(default_factory=Counts)
    fetched: tuple[int, int] = (0, 0)  # URLs of a download that has finished no part yet: done, all
    seen: set[str] = field(default_factory=set)

    @property
    def done(self) -> int:
        """Finished parts."""
        return len(self.seen)

    def look(self) -> None:
        """Read the counts of the parts that were finished since the last look."""
        if self.done == self.parts:
            return
        new = sorted(ledger.parts_done(self.folder) - self.seen)
        files = [self.folder / "counts" / f"{name}.json" for name in new]
        more = [Counts(**counts) for counts in in_parallel(read_json, files)]
        self.counts = ledger.total([self.counts, *more])
        self.seen.update(new)
        if not self.seen:
            self.fetched = _fetched(self.folder)

    def records(self) -> tuple[str, int, int, int]:
        """The unit of its records, and how many were read, kept, and failed."""
        unit = self.counts.unit
        failed = sum(self.counts.errors.get(unit, {}).values())
        return unit, self.counts.read.get(unit, 0), self.counts.kept.get(unit, 0), failed


def _fetched(folder: Location) -> tuple[int, int]:
    files = [folder / "fetching" / name for name in names(folder / "fetching")]
    pairs = [body.split() for body in in_parallel(read_bytes, files)]
    return sum(int(done) for done, _ in pairs), sum(int(total) for _, total in pairs)


def lines(run: Location) -> Iterator[str]:
    """The state of a run and of each of its stages; raises FileNotFoundError if there is none."""
    stages: list[str] = read_json(run / ledger.RUN_FILE)["stages"]
    status = read_status(run)
    if status is not None:
        yield _headline(status)
    wave = status.wave if status else {}
    said = in_parallel(lambda name: ledger.about(run / name), stages)
    for name, about in zip(stages, said, strict=True):
        yield f"{name:<28} {_stage_line(run, name, about, wave)}"


def _headline(status: Status) -> str:
    where = f"{status.engine}, process {status.pid} on {status.host}"
    took = f"{status.updated - status.started:.0f} s"
    if status.silent:
        quiet = time.time() - status.updated
        return f"no sign of life for {quiet:.0f} s ({where}); the same command goes on from there"
    return f"{status.state} after {took} ({where})"


def _stage_line(
    run: Location,
    name: str,
    about: Mapping[str, Any] | None,
    wave: Mapping[str, tuple[str, int]],
) -> str:
    if name in wave and (about is None or about["folder"] != wave[name][0]):
        folder, parts = wave[name]
        reached = Reached(run / name / folder, parts)
        reached.look()
        unit, read, kept, failed = reached.records()
        if reached.done == 0 and reached.fetched[1]:
            return f"{reached.fetched[0]:,} of {reached.fetched[1]:,} URLs"
        errors = f", {failed:,} failed" if failed else ""
        return (
            f"{reached.done:,} of {parts:,} parts, {read:,} → {kept:,} {unit}s{errors}"
            if reached.done
            else "waiting"
        )
    if about is None:
        return "waiting"
    counts = Counts(**about["counts"])
    read, kept = (side.get(counts.unit, 0) for side in (counts.read, counts.kept))
    return f"done, {read:,} → {kept:,} {counts.unit}s in {about['seconds']:.1f} core s"
