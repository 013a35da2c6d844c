"""The command `mixwright train-filter`, and what torchrun starts on every device."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from shards import storage
from shards.storage import Location, location
from trainer.pairs import Found, PairsError, Split, read_pairs, split
from trainer.separation import POOLED
from trainer.terminal import bar, console, failed

if TYPE_CHECKING:
    from trainer.filter_network import Aucs, Settings
    from trainer.ranks import Ranks

PAIRS_FILE, FIGURES = "pairs.parquet", "training.json"
LOOKALIKE = "looks_held_out"
MODULE = "trainer.train_filter"
EXAMPLES = """[b]Examples[/b]

[cyan]mixwright train-filter runs/strict --out networks/mine[/cyan]

[cyan]mixwright train-filter pairs.tsv --out networks/mine --held-out flickr --lock-image[/cyan]

[cyan]mixwright train-filter shards/ more/ --out networks/b32 --model ViT-B-32 \
--pretrained openai --batch 4096 --devices 8 --workers 8[/cyan]

[cyan]torchrun --nnodes 4 --nproc-per-node 8 -m trainer.train_filter shards/ \
--out networks/b32[/cyan]

The recipe then says [cyan]clip: {model: networks/mine}[/cyan]"""

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog=EXAMPLES)
def main(
    pairs: Annotated[
        list[str],
        typer.Argument(
            help="Runs (their captions), shards, folders of WebDataset tars, or tables (.parquet, "
            ".tsv, .csv) of image files and captions.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option(help="The network's folder.", show_default=False)],
    model: Annotated[
        str, typer.Option(help="To start from: a network's folder or an open_clip architecture.")
    ] = "mixwright-small",
    pretrained: Annotated[
        str | None,
        typer.Option(help="Weights of an architecture: open_clip's tag, or a safetensors file."),
    ] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="A source, or part of its name, to measure on and never train on; may be given "
            "again. Without one, a tenth of the pictures.",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="How often each pair is seen.")] = 5,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Updates, instead of epochs.", show_default=False)
    ] = None,
    batch: Annotated[int, typer.Option(min=2, help="Pairs a step, of all devices.")] = 256,
    learning_rate: Annotated[float, typer.Option(min=0, help="The highest.")] = 1e-4,
    lock_image: Annotated[
        bool,
        typer.Option(
            "--lock-image",
            help="Train the text tower (and a timm tower's projection) only; fast on a CPU.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the order, crops and first weights.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; GPUs where there are some.")
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="Of this machine, to train on.")] = 1,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes a device that decode pictures.")
    ] = 2,
    eval_every: Annotated[int, typer.Option(min=1, help="Steps between measurements.")] = 100,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
) -> None:
    """Train a CLIP network that filters on pairs of high quality; goes on from its checkpoint.

    Held-out pairs tell how well it tells matched captions from shuffled ones, before and after
    (AUC: 0.5 is chance, 1 is perfect). A recipe names the folder as its clip model.
    """
    if devices > 1 and "RANK" not in os.environ:
        raise typer.Exit(_on_devices(devices, sys.argv[1:]))
    chosen: dict[str, Any] = {"model": model, "pretrained": pretrained, "batch": batch}
    chosen |= {"learning_rate": learning_rate, "lock_image": lock_image, "seed": seed}
    free = {"workers": workers, "eval_every": eval_every, "checkpoint_every": checkpoint_every}
    try:
        from trainer.ranks import joined

        with joined(device) as ranks:
            folder = location(out)
            found, split = _pairs(ranks, folder, pairs, held_out or [], fresh=fresh)
            chosen["steps"] = steps or epochs * max(1, split.train.num_rows // batch)
            _train(ranks, folder, found, split, chosen, free)
    except ModuleNotFoundError as error:
        raise failed(f"{error}: pip install 'mixwright[trainer]'", 2) from None
    except PairsError as error:
        raise failed(error, 2) from None
    except (ValueError, RuntimeError, OSError, EOFError) as error:
        raise failed(error, 1) from None
    except KeyboardInterrupt:
        raise failed("stopped; the same command goes on from its last checkpoint", 130) from None


def _on_devices(count: int, arguments: Sequence[str]) -> int:
    """The same command as one process a device."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    return subprocess.call([sys.executable, *torchrun, "-m", MODULE, *arguments])  # noqa: S603


def _pairs(
    ranks: "Ranks", out: Location, places: Sequence[str], held_out: Sequence[str], *, fresh: bool
) -> tuple[Found, Split]:
    """The pairs, as the first process reads them; a run that goes on has them already."""
    from trainer.checkpoint import FOLDER, latest

    if ranks.first:
        if fresh:
            storage.remove_tree(out / FOLDER)
        if latest(out) is None:
            found = read_pairs(places)
            about = {"left_out": json.dumps(found.left_out)}
            storage.write_table(out / PAIRS_FILE, found.pairs.replace_schema_metadata(about))
    ranks.wait()
    table = storage.read_table(out / PAIRS_FILE)
    found = Found(table, json.loads(table.schema.metadata[b"left_out"]))
    return found, split(found.pairs, held_out)


def _train(
    ranks: "Ranks",
    out: Location,
    found: Found,
    pairs: Split,
    chosen: Mapping[str, Any],
    free: Mapping[str, int],
) -> None:
    from trainer.filter_network import Options, Settings, train

    settings = Settings(**chosen)
    if ranks.first:
        _say_pairs(found, pairs)
    with bar(settings.steps if ranks.first else 0) as (progress, task):

        def show(line: dict[str, Any]) -> None:
            if "loss" in line:
                text = f"train, loss {line['loss']:.3f}"
                progress.update(task, completed=line["step"], description=text)
            else:
                say(f"step {line['step']:>6}  held-out AUC {line['auc'].get(POOLED, 0.5):.4f}")

        before, after = train(settings, Options(**free), pairs, out, ranks, show)
    if ranks.first:
        storage.write_json(out / FIGURES, figures(settings, found, pairs, before, after))
        _say_result(out, pairs, before, after)


def figures(
    settings: "Settings", found: Found, pairs: Split, before: "Aucs", after: "Aucs"
) -> dict[str, Any]:
    """What stands beside the weights: how they came to be, and what that was good for."""
    return {
        "settings": asdict(settings),
        "pairs": {
            "trained_on": pairs.train.num_rows,
            "held_out": pairs.held_out.num_rows,
            "left_out": {**found.left_out, LOOKALIKE: pairs.lookalikes},
            "sha256": pairs.sha256(),
        },
        "auc": {"before": dict(before), "after": dict(after)},
        "gain": after.get(POOLED, 0.5) - before.get(POOLED, 0.5),
    }


def say(line: str) -> None:
    """Print a line as it is."""
    console.print(line, markup=False, soft_wrap=True)


def _say_pairs(found: Found, pairs: Split) -> None:
    say(f"{pairs.train.num_rows} pairs to train on, {pairs.held_out.num_rows} held out")
    for reason, count in {**found.left_out, LOOKALIKE: pairs.lookalikes}.items():
        if count:
            say(f"  left out: {count} {reason}")


def _say_result(out: Location, pairs: Split, before: "Aucs", after: "Aucs") -> None:
    """The AUC of every held-out source, and of all."""
    counts = Counter(source or "" for source in pairs.held_out["source"].to_pylist())
    table = Table("held-out source", box=None, pad_edge=False)
    for title in ("pairs", "AUC before", "after", "gain"):
        table.add_column(title, justify="right")
    for name, auc in after.items():
        count = counts.get(name, pairs.held_out.num_rows)
        row = (f"{before[name]:.4f}", f"{auc:.4f}", f"{auc - before[name]:+.4f}")
        table.add_row(Text(name), str(count), *row)
    console.print(table)
    gain = after.get(POOLED, 0.5) - before.get(POOLED, 0.5)
    said = "separates held-out pairs better" if gain > 0 else "does NOT separate them better"
    say(f"{out}: {said} than the network that it began with ({gain:+.4f} AUC)")


if __name__ == "__main__":
    app(prog_name="mixwright train-filter")
