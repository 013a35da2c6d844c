"""`python -m trainer CONFIG`: train with a progress bar; the result lies beside the metrics."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from configs.reading import ConfigError
from trainer.config import TrainConfig, load_config
from trainer.terminal import bar, console, failed


def main(
    config: Annotated[str, typer.Argument(help="A training recipe (YAML).")],
    assignments: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
) -> None:
    """Train the reference model; goes on from its last checkpoint."""
    try:
        recipe = load_config(config, assignments or [])
    except ConfigError as error:
        raise failed(error, 2) from None
    _train(recipe, fresh=fresh)


def _train(recipe: TrainConfig, *, fresh: bool) -> None:
    from shards.loader import ShardError
    from shards.storage import write_json

    try:
        from trainer.train import train
    except ModuleNotFoundError as error:
        raise failed(f"{error}: pip install 'mixwright[trainer]'", 2) from None

    try:
        with bar(recipe.steps) as (progress, task):

            def show(line: dict[str, Any]) -> None:
                progress.update(task, completed=line["step"], description=_describe(line))
                if "held_out_loss" in line:
                    say = f"step {line['step']:>6}  held-out loss {line['held_out_loss']:.3f}"
                    console.print(say, markup=False)

            result = train(recipe, show, fresh=fresh)
    except (ShardError, ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
        raise failed(error, 1) from None
    write_json(recipe.out / "result.json", asdict(result) | _paths(result))
    console.print(
        f"{result.steps} steps in {result.seconds:.0f} s, {result.tokens_per_second:,.0f} tokens/s",
        markup=False,
    )


def _paths(result: Any) -> dict[str, str]:
    return {"metrics": str(result.metrics), "checkpoint": str(result.checkpoint)}


def _describe(line: dict[str, Any]) -> str:
    return f"train, loss {line['loss']:.3f}" if "loss" in line else "train"


if __name__ == "__main__":
    typer.run(main)
