"""Progress bars of a run, and what is said of each stage at its end."""

import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipelines.terminal.status import HEARTBEAT_SECONDS, Reached, Status, tell
from shards.ledger import Counts
from shards.storage import Location

# How often files are looked at: a listing of an object store costs time and money.
POLL_SECONDS, REMOTE_POLL_SECONDS = 0.2, 5.0


def bars(console: Console) -> Progress:
    """The bars of long work; on no terminal they are left out."""
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def watch(
    console: Console, run: Location, status: Status, stages: Mapping[str, Reached]
) -> Iterator[None]:
    """Until the block ends, show how far stages are, and say in `status.json` that we live."""
    wave = {name: (stage.folder.name, stage.parts) for name, stage in stages.items()}
    status = tell(run, replace(status, wave=wave))
    ended = threading.Event()
    with bars(console) as progress:
        shown = None if progress.disable else _Bars(progress, stages)
        period = POLL_SECONDS if isinstance(run, Path) else REMOTE_POLL_SECONDS

        def poll() -> None:
            told = time.monotonic()
            while not ended.wait(period if shown else HEARTBEAT_SECONDS):
                try:
                    if shown:
                        shown.update()
                    if time.monotonic() - told >= HEARTBEAT_SECONDS:
                        told = time.monotonic()
                        tell(run, status)
                except (ConnectionError, TimeoutError) as error:
                    # Whether a run goes on without its store is for the stages to say.
                    logging.getLogger("mixwright").warning("no progress: %s", error)

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class _Bars:
    """One bar for all stages together, and one for each that is under way."""

    def __init__(self, progress: Progress, stages: Mapping[str, Reached]) -> None:
        self.progress, self.stages, self.started = progress, stages, time.monotonic()
        total = sum(stage.parts for stage in stages.values())
        self.whole = progress.add_task("all stages", total=total, unit="parts")
        self.tasks = {name: progress.add_task(name, visible=False, unit="parts") for name in stages}

    def update(self) -> None:
        """Look at the files and move the bars."""
        for name, stage in self.stages.items():
            stage.look()
            fetching = stage.done == 0 and stage.fetched[1] > 0
            done, total = stage.fetched if fetching else (stage.done, stage.parts)
            self.progress.update(
                self.tasks[name],
                completed=done,
                total=total,
                unit="URLs" if fetching else self._records(stage),
                visible=0 < done < total,
            )
        finished = sum(stage.done for stage in self.stages.values())
        self.progress.update(self.whole, completed=finished)

    def _records(self, stage: Reached) -> str:
        unit, read, _, failed = stage.records()
        rate = read / (time.monotonic() - self.started)
        errors = f", {failed:,} failed" if failed else ""
        return f"parts, {read:,} {unit}s, {rate:,.0f}/s{errors}"


def describe(name: str, counts: Counts, metrics: Mapping[str, int]) -> str:
    """One line on a finished stage: what went in, what came out, and the most frequent reasons."""
    unit = counts.unit
    read, kept = counts.read.get(unit, 0), counts.kept.get(unit, 0)
    lost = {**counts.dropped.get(unit, {}), **counts.errors.get(unit, {})}
    seconds = metrics.get("microseconds", 0) / 1e6
    top = sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:3]
    reasons = ", ".join(f"{reason} {n}" for reason, n in top)
    more = f" and {len(lost) - 3} more reasons" if len(lost) > 3 else ""
    return f"{name:<28} {read:>8,} → {kept:>8,} {seconds:6.1f} s  {reasons}{more}"


def describe_retry(name: str, before: Counts, counts: Counts, temporary: Collection[str]) -> str:
    """One line on failures that were tried again: how many there were, and are not any more."""
    tried = before.lost_to("image", temporary)
    won = counts.kept.get("image", 0) - before.kept.get("image", 0)
    return f"{name:<28} {tried:,} failed images tried again, {won:,} won"


def warning(name: str, counts: Counts) -> str | None:
    """What to say of a stage that was to select and kept all or nothing."""
    read, kept = counts.read.get("document", 0), counts.kept.get("document", 0)
    lost = sum(map(counts.lost, counts.read))
    if read and not kept:
        return f"{name} kept nothing: check its thresholds (mixwright why, mixwright report)"
    if read and not lost:
        return f"{name} dropped nothing: check that its rules are what you meant"
    return None
