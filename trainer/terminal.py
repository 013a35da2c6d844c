"""What the commands that train show on a terminal: a bar of steps, and errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

console = Console(highlight=False)


def failed(error: object, code: int) -> typer.Exit:
    """Report an error; raise what this returns."""
    Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    return typer.Exit(code)


@contextmanager
def bar(steps: int) -> Iterator[tuple[Progress, TaskID]]:
    """A progress bar of the steps of a training, where standard output is a terminal."""
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
    )
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        yield progress, progress.add_task("train", total=steps)
