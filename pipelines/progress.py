"""Progress bars of a run, read from the files that its stages write: the same on every engine."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from shards.ledger import Counts

Places = Mapping[str, tuple[Path, int]]  # stage: its folder while written, its number of parts
POLL_SECONDS = 0.2


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
def watch(console: Console, places: Places) -> Iterator[None]:
    """Show how far all stages are together, and each that is under way, until the block ends."""
    with bars(console) as progress:
        whole = progress.add_task("all stages", total=None, unit="parts")
        tasks = {name: progress.add_task(name, visible=False, unit="parts") for name in places}
        ended = threading.Event()

        def poll() -> None:
            while not ended.wait(POLL_SECONDS):
                states = {name: _done(*place) for name, place in places.items()}
                for name, (done, total, unit) in states.items():
                    under_way = 0 < done < total
                    progress.update(
                        tasks[name], completed=done, total=total, unit=unit, visible=under_way
                    )
                parts = sum(parts for _, parts in places.values())
                finished = sum(done for done, _, unit in states.values() if unit == "parts")
                progress.update(whole, completed=finished, total=parts)

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _done(folder: Path, parts: int) -> tuple[int, int, str]:
    """What a stage has done: parts, or URLs while a download has finished no part yet."""
    finished = sum(1 for _ in folder.glob("counts/*.json"))
    fetching = [file.read_text().split() for file in folder.glob("fetching/*")]
    if finished == 0 and fetching:
        asked = [(int(done), int(total)) for done, total in fetching]
        return sum(d for d, _ in asked), sum(t for _, t in asked), "URLs"
    return finished, parts, "parts"


def describe(name: str, counts: Counts, seconds: float) -> str:
    """One line on a finished stage: what went in, what came out, and the most frequent reasons."""
    unit = "document" if "document" in counts.read else "sequence"
    read, kept = counts.read.get(unit, 0), counts.kept.get(unit, 0)
    lost = {**counts.dropped.get(unit, {}), **counts.errors.get(unit, {})}
    top = sorted(lost.items(), key=lambda item: (-item[1], item[0]))[:3]
    reasons = ", ".join(f"{reason} {n}" for reason, n in top)
    more = f" and {len(lost) - 3} more reasons" if len(lost) > 3 else ""
    return f"{name:<28} {read:>8,} → {kept:>8,} {seconds:6.1f} s  {reasons}{more}"


def warning(name: str, counts: Counts) -> str | None:
    """What to say of a stage that was to select and kept all or nothing."""
    read, kept = counts.read.get("document", 0), counts.kept.get("document", 0)
    lost = sum(map(counts.lost, counts.read))
    if read and not kept:
        return f"{name} kept nothing: check its thresholds (mixwright why, mixwright report)"
    if read and not lost:
        return f"{name} dropped nothing: check that its rules are what you meant"
    return None
