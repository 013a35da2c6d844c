"""`python -m trainer CONFIG`: train with a progress bar; the result lies beside the metrics."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

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

from configs.reading import ConfigError
from trainer.config import TrainConfig, load_config

console = Console(highlight=False)


def main(
    config: Annotated[str, typer.Argument(help="A training recipe (YAML).")],
    assignments: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
) -> None:
    """Train the reference model; goes on from its last checkpoint."""
    try:
        recipe = load_config(config, assignments or [])
    except ConfigError as error:
        raise _failed(error, 2) from None
    _train(recipe, fresh=fresh)


def _failed(error: object, code: int) -> typer.Exit:
    """Report an error; raise what this returns."""
    Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    return typer.Exit(code)


def _train(recipe: TrainConfig, *, fresh: bool) -> None:
    from shards.loader import ShardError
    from shards.storage import write_json

    try:
        from trainer.train import train
    except ModuleNotFoundError as error:
        raise _failed(f"{error}: pip install 'mixwright[trainer]'", 2) from None

    try:
        with _bar(recipe.steps) as (progress, task):

            def show(line: dict[str, Any]) -> None:
                progress.update(task, completed=line["step"], description=_describe(line))
                if "held_out_loss" in line:
                    say = f"step {line['step']:>6}  held-out loss {line['held_out_loss']:.3f}"
                    console.print(say, markup=False)

            result = train(recipe, show, fresh=fresh)
    except (ShardError, ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
        raise _failed(error, 1) from None
    write_json(recipe.out / "result.json", asdict(result) | _paths(result))
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s, {result.tokens_per_second:,.0f} tokens/s",
        markup=False,
    )


def _paths(result: Any) -> dict[str, str]:
    return {"metrics": str(result.metrics), "checkpoint": str(result.checkpoint)}


def _describe(line: dict[str, Any]) -> str:
    return f"train, loss {line['loss']:.3f}" if "loss" in line else "train"


@contextmanager
def _bar(steps: int) -> Iterator[tuple[Progress, TaskID]]:
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


if __name__ == "__main__":
    typer.run(main)
