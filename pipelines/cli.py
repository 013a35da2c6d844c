"""The command line. Each command imports what it needs, so that `--help` answers at once."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.config.recipe import Recipe
    from pipelines.run import Planned
    from shards.ledger import Counts
    from shards.storage import Location

# Of what libraries say, errors alone; the project says what it does at a level of its own.
logging.basicConfig(level=logging.ERROR)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Raw web to training mixtures: captions, interleaved pages and text, at exact ratios.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at recipes.")
app.add_typer(config_app, name="config")

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143  # exit codes; 0 is success

GRACE_SECONDS = 30.0  # for a run to stop in order: to cancel its job and end its workers

Config = Annotated[Path, typer.Argument(help="A recipe (YAML).", show_default=False)]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key, as in mix.seq_len=2048."),
]
RunFolder = Annotated[
    str, typer.Argument(help="The folder of a run: a path, s3:// or gs://.", show_default=False)
]
Shards = Annotated[
    str,
    typer.Argument(
        help="Shards, or a run that wrote them: a path, s3:// or gs://.", show_default=False
    ),
]


@cache
def console(*, stderr: bool = False) -> "Console":
    """The terminal, by standard output or error."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def say(line: str = "") -> None:
    """Print a line as it is: paths and reasons are no markup."""
    console().print(line, markup=False, soft_wrap=True)


def complain(line: str) -> None:
    """Print a line to standard error, in red."""
    console(stderr=True).print(line, style="red", markup=False, soft_wrap=True)


def fail(message: str, code: int = FAILED) -> typer.Exit:
    """Report an error; raise what this returns."""
    complain(f"error: {message}")
    return typer.Exit(code)


def examples(*lines: str) -> str:
    """The epilog of a command's help."""
    return "\n\n".join(["[b]Examples[/b]", *(f"[cyan]{line}[/cyan]" for line in lines)])


@contextmanager
def told() -> Iterator[None]:
    """Turn the errors that a user can mend into a message and an exit code."""
    from configs.reading import ConfigError

    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except ConfigError as error:
        raise fail(str(error), USAGE) from None
    except ModuleNotFoundError as error:
        raise fail(_missing(error), USAGE) from None
    except (FileNotFoundError, PermissionError, ConnectionError, TimeoutError) as error:
        named = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise fail(named) from None
    except Terminated:
        raise fail("stopped; the same command goes on from here", TERMINATED) from None
    except KeyboardInterrupt:
        raise fail("stopped; the same command goes on from here", INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it: the run is ended as by Ctrl-C."""


def _stop(number: int, _frame: Any) -> None:
    """Stop in order; if that takes too long, anyhow: nothing that is written is ever half there.

    Threads of Beam's local engine that are interrupted while they start may wait for each other.
    """
    anyhow = threading.Timer(GRACE_SECONDS, os._exit, (128 + number,))
    anyhow.daemon = True
    anyhow.start()
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _missing(error: ModuleNotFoundError) -> str:
    """What to install for a command whose extra is not there."""
    if error.name is None or "mixwright[" in str(error):
        return str(error)
    return f"{error.name} is not installed; this command needs pip install 'mixwright[pipelines]'"


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"mixwright {version('mixwright')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Read the options that come before a command."""


@app.command(
    epilog=examples(
        "mixwright run configs/mm1.yaml --dry-run",
        "mixwright run my.yaml --set mix.seq_len=2048 --set seed=7",
        "mixwright run my.yaml --only captions",
        "mixwright run my.yaml --retry-failed",
        "mixwright run my.yaml --runner spark --set runner.spark.job_endpoint=localhost:8099",
    )
)
def run(
    config: Config,
    only: Annotated[
        str | None,
        typer.Option(help="One stage, or one corpus, with what it needs.", metavar="STAGE|CORPUS"),
    ] = None,
    runner: Annotated[
        str | None,
        typer.Option(help="local, spark, flink or dataflow: runner.engine of the recipe."),
    ] = None,
    assignments: Set = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say which stages would run, and why; run nothing.")
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="First try the downloads again that failed for reasons that may have passed.",
        ),
    ] = False,
) -> None:
    """Run a recipe. What is done is skipped, what was interrupted is continued."""
    from pipelines.engines.forks import forks

    # Before anything is imported, so that what workers need is loaded at the same time.
    with nullcontext() if dry_run else forks(), told():
        from pipelines.config.recipe import load_recipe

        engine = [f"runner.engine={runner}"] if runner else []
        recipe = load_recipe(config, [*(assignments or []), *engine])
        execute(recipe, only, dry_run=dry_run, retry_failed=retry_failed)


def execute(
    recipe: "Recipe", only: str | None = None, *, dry_run: bool = False, retry_failed: bool = False
) -> None:
    """Bring the stages of a recipe up to date, with progress; raises `typer.Exit` on failure."""
    from pipelines.engines import forks
    from pipelines.loading import loading

    if recipe.runner.engine != "local":
        forks.end()  # workers are elsewhere
    with loading():
        from pipelines.recipe import selected, stages_of
        from pipelines.run import plan, plan_retry

    whole = stages_of(recipe)
    names, stages = [stage.name for stage in whole], selected(whole, only)
    planned = plan(recipe.out, stages)
    again = plan_retry(recipe.out, planned) if retry_failed else []
    if dry_run:
        _say_plan(recipe, planned, again)
        return
    if again:
        _run(recipe, again, names)
        planned = plan(recipe.out, stages)
    elif retry_failed:
        say(f"{recipe.name}: no download failed for a reason that may have passed")
    if all(p.done for p in planned):
        say(f"{recipe.name}: all {len(planned)} stages are done; nothing to do")
        return
    _run(recipe, planned, names)


def _say_plan(recipe: "Recipe", planned: list["Planned"], again: list["Planned"]) -> None:
    """Say which stages would run, and write the job that would be submitted."""
    retried = {p.stage.name: p for p in again if p.retries}
    for p in (retried.get(p.stage.name, p) for p in planned):
        say(f"{p.stage.name:<28} {'skip: done' if p.done else f'run: {p.why}'}")
    if recipe.runner.engine == "dataflow" and not all(p.done for p in planned):
        _write_job(recipe, planned)


def _write_job(recipe: "Recipe", planned: list["Planned"]) -> None:
    """Build and stage the next Dataflow job, and write what would be submitted."""
    from apache_beam.options.pipeline_options import TestOptions

    from pipelines.engines.dataflow import JOB_FILE, PIPELINE_FILE, write_job
    from pipelines.engines.runners import check_reach, pipeline_options
    from pipelines.run import next_job

    options = pipeline_options(recipe)
    options.view_as(TestOptions).dry_run = True
    names, pipeline = next_job(recipe.out, planned, options)
    check_reach(recipe)
    folder = recipe.out / "job"
    write_job(pipeline, folder)
    say(f"\nthe next job ({names[0]} to {names[-1]}, {len(names)} stages) is in {folder}:")
    say(f"  {PIPELINE_FILE}, {JOB_FILE}; nothing was submitted")


def _run(recipe: "Recipe", planned: list["Planned"], names: list[str]) -> None:
    """Run stages, with the log and the status of the run beside them."""
    from configs.reading import ConfigError
    from pipelines.engines.runners import check_reach, pipeline_options
    from pipelines.terminal import status
    from pipelines.terminal.logs import LOG_FILE, logs_to

    check_reach(recipe)
    options, out = pipeline_options(recipe), recipe.out
    about = {"recipe": recipe.name, "core_hour_price": recipe.runner.core_hour_price}
    state = status.begin(out, names, recipe.runner.engine, about)
    outcome: status.State = "failed"
    try:
        with logs_to(out):
            _execute(recipe, planned, options, state)
        outcome = "done"
    except KeyboardInterrupt:
        outcome = "cancelled"
        raise
    except ConfigError:
        raise
    except Exception as error:
        # Not before the log is closed, which takes what is written to standard error.
        cause = str(error).strip().splitlines() or [type(error).__name__]
        raise fail(f"{cause[-1]}\n  the whole story is in {out / LOG_FILE}") from None
    finally:
        status.end(out, outcome)


def _execute(recipe: "Recipe", planned: list["Planned"], options: Any, state: Any) -> None:
    from pipelines.run import execute as execute_stages
    from pipelines.terminal import progress
    from pipelines.terminal.status import Reached
    from shards.ledger import read_counts

    before = {
        p.stage.name: (read_counts(recipe.out / p.stage.name / p.earlier), p.stage.temporary)
        for p in planned
        if p.earlier and p.retries
    }
    selecting = {p.stage.name for p in planned if p.stage.selects}
    log = logging.getLogger("mixwright")

    def watch(places: Mapping[str, Any]) -> AbstractContextManager[None]:
        log.info("job begins", extra={"stages": list(places)})
        reached = {name: Reached(place.out, place.parts) for name, place in places.items()}
        return progress.watch(console(), recipe.out, state, reached)

    def done(name: str, counts: "Counts", metrics: Mapping[str, int]) -> None:
        log.info("stage done", extra={"stage": name, "counts": vars(counts), "metrics": metrics})
        if name in before:
            say(progress.describe_retry(name, before[name][0], counts, before[name][1]))
            return
        say(progress.describe(name, counts, metrics))
        if name in selecting and (warning := progress.warning(name, counts)):
            console().print(f"  warning: {warning}", style="yellow", markup=False, soft_wrap=True)

    log.info("begins", extra={"recipe": recipe.name, "engine": state.engine})
    try:
        execute_stages(recipe.out, planned, options, watch=watch, done=done)
    except BaseException:
        log.exception("ended before it was done")
        raise
    log.info("done")


@app.command(epilog=examples("mixwright demo", "mixwright demo --set seed=2"))
def demo(
    sample: Annotated[
        Path | None, typer.Option(help="The sample's folder; the checkout's by default.")
    ] = None,
    assignments: Set = None,
    train_model: Annotated[
        bool, typer.Option("--train/--no-train", help="Train the small model on the shards.")
    ] = True,
) -> None:
    """Run the whole path on the bundled sample: download, curate, mix, verify, train, report."""
    with told():
        from pipelines import demo as steps
        from pipelines.config.recipe import load_recipe
        from pipelines.engines.forks import forks

        started = time.monotonic()
        with as_file(files("configs") / "demo.yaml") as path:
            recipe = load_recipe(path, assignments or [])
        sample = sample or steps.SAMPLE
        with forks(), steps.served(recipe, sample) as connected:
            with counted() as progress:
                steps.prepare(connected, sample, progress)
            execute(connected)
        _verify(recipe.out / "shards")
        losses = _train_demo(recipe) if train_model else None
        page = _report(recipe.out)
        for line in steps.summary(recipe.out, losses, page):
            say(line)
        say(f"took           {time.monotonic() - started:.0f} s")


@contextmanager
def counted() -> Iterator[Any]:
    """A progress function of what is done, how much there is and how much is done."""
    from pipelines.terminal.progress import bars

    with bars(console()) as progress:
        tasks: dict[str, Any] = {}

        def update(what: str, total: int, done: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, unit="")
            progress.update(tasks[what], completed=done)

        yield update


def _train_demo(recipe: "Recipe") -> tuple[float, float] | None:
    from shards.storage import read_json

    if recipe.train is None:
        return None
    with as_file(files("configs") / recipe.train) as path:
        code = _trainer([str(path)])
    if code:
        raise typer.Exit(code)
    result = read_json(recipe.out / "train" / "result.json")
    return result["first_loss"], result["last_loss"]


def _trainer(arguments: list[str], module: str = "trainer") -> int:
    """Train in a process of its own: pipelines never load the trainer."""
    return subprocess.call([sys.executable, "-m", module, *arguments])  # noqa: S603


@app.command(
    epilog=examples(
        "mixwright train configs/train-demo.yaml",
        "mixwright train my-model.yaml --set steps=1000",
    )
)
def train(
    config: Annotated[Path, typer.Argument(help="A training recipe (YAML).", show_default=False)],
    assignments: Set = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over.")] = False,
) -> None:
    """Train the reference model on shards; goes on from its last checkpoint."""
    options = [word for assignment in assignments or [] for word in ("--set", assignment)]
    raise typer.Exit(_trainer([str(config), *options, *(["--fresh"] if fresh else [])]))


@app.command(
    "train-filter",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def train_filter(context: typer.Context) -> None:
    """Train a CLIP network that filters on one's own pairs; --help has its options."""
    raise typer.Exit(_trainer(context.args, "trainer.train_filter"))


@app.command(
    "train-quality",
    epilog=examples(
        "mixwright train-quality books/ spam/ quality.bin",
        "mixwright train-quality good.jsonl.gz bad.jsonl.gz quality.ftz --features 100000",
    ),
)
def train_quality(
    good: Annotated[str, typer.Argument(help="A folder or file of good texts.")],
    bad: Annotated[str, typer.Argument(help="A folder or file of bad ones.")],
    out: Annotated[str, typer.Argument(help="The model: .bin, or .ftz for a quantised one.")],
    dimensions: Annotated[int, typer.Option(min=1, help="Of the vectors of words.")] = 16,
    pairs: Annotated[int, typer.Option(min=1, help="Buckets for pairs of words.")] = 1 << 20,
    features: Annotated[
        int, typer.Option(min=0, help="Words and pairs that a .ftz keeps; 0 keeps all.")
    ] = 0,
    epochs: Annotated[int, typer.Option(min=1, help="How often each text is seen.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
) -> None:
    """Train a quality classifier, and measure it on a tenth of the texts.

    Files are .jsonl (.gz, .zst) or Parquet with a field "text", or hold one text each.
    """
    with told():
        from pipelines.scores.train_quality import train

        sizes = {"dimensions": dimensions, "pairs": pairs, "features": features}
        made = train(good, bad, out, **sizes, epochs=epochs, seed=seed)
        say(f"{out}: trained on {made.good} good and {made.bad} bad texts")
        say(f"  held out   {made.held_out_good} good and {made.held_out_bad} bad")
        say(f"  AUC        {made.auc:.3f}")
        say(f"  at 0.5     precision {made.precision:.3f}, recall {made.recall:.3f}")


@app.command(epilog=examples("mixwright status runs/demo", "mixwright status s3://bucket/run"))
def status(
    run: RunFolder,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
    ] = False,
) -> None:
    """Say how far a run is, from any terminal that reaches its folder."""
    with told():
        from rich.live import Live
        from rich.text import Text

        from pipelines.terminal.status import lines, read_status
        from shards.storage import location

        folder = location(run)
        if not follow:
            for line in lines(folder):
                say(line)
            return
        with Live(console=console(), auto_refresh=False) as live:
            while True:
                live.update(Text("\n".join(lines(folder))), refresh=True)
                now = read_status(folder)
                if now is None or now.state != "running" or now.silent:
                    return
                time.sleep(2)


@app.command(epilog=examples("mixwright inspect runs/demo/shards", "mixwright inspect runs/demo"))
def inspect(
    path: Annotated[str, typer.Argument(help="Shards, a run, or a Parquet file of documents.")],
) -> None:
    """Say what is in shards, a run, or a file of documents."""
    with told():
        from pipelines.terminal.inspection import render
        from shards.statistics import describe

        for line in render(describe(path)):
            say(line)


@app.command(
    epilog=examples(
        "mixwright why runs/demo http://docs.mixwright.example/freedombox/APU.part.html",
        "mixwright why runs/mine 3f2a...",
    )
)
def why(
    run: RunFolder,
    query: Annotated[
        str,
        typer.Argument(
            help="A document's id, a page's URL or an image's.",
            metavar="URL|ID",
            show_default=False,
        ),
    ],
) -> None:
    """Say where a record is, or which rule dropped it."""
    with told():
        from shards.storage import location
        from shards.why import why as ask

        answers = ask(location(run), query)
        if not answers:
            raise fail(f"{run} never read {query}")
        for answer in answers:
            about = ": ".join(filter(None, (answer.outcome, answer.reason)))
            detail = f" ({answer.detail})" if answer.detail else ""
            url = f"  {answer.url}" if answer.url and answer.url != query else ""
            say(f"{answer.id}  {answer.stage:<26} {about}{detail}{url}")


@app.command(
    epilog=examples(
        "mixwright tune runs/demo",
        "mixwright tune runs/demo text/filter --set gopher_too_few_words=30",
        "mixwright tune runs/demo captions/filter_images-2 --target-kept image_low_similarity=0.3",
    )
)
def tune(
    run: RunFolder,
    stage: Annotated[
        str | None, typer.Argument(help="A stage; without one, that which has the rules.")
    ] = None,
    bounds: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="RULE=VALUE",
            help="Another bound, or off; RULE.min or RULE.max where a rule has both or none.",
        ),
    ] = None,
    target_kept: Annotated[
        str | None,
        typer.Option(metavar="RULE=SHARE", help="Find the bound that keeps this share, as 0.3."),
    ] = None,
) -> None:
    """Say what filters measured, and what other bounds would keep, without running anything."""
    with told():
        from pipelines.terminal.tuning import lines
        from shards.storage import location
        from shards.tune import TuneError

        try:
            for line in lines(location(run), stage, bounds or [], target_kept):
                say(line)
        except TuneError as error:
            raise fail(str(error), USAGE) from None


@app.command(epilog=examples("mixwright verify runs/demo"))
def verify(
    shards: Shards,
) -> None:
    """Check shards byte by byte: hashes, indexes, sums, images, and the ratio of every prefix."""
    with told():
        from shards.storage import location

        _verify(location(shards))


def _verify(shards: "Location") -> None:
    from shards.loader import ShardError, open_shards
    from shards.verify import tokenizer_of
    from shards.verify import verify as check

    try:
        with counted() as progress:
            problems = check(shards, progress=lambda done, total: progress("verify", total, done))
    except ShardError as error:
        raise fail(str(error)) from None
    for problem in problems:
        where = problem.file if problem.position is None else f"{problem.file}, {problem.position}"
        complain(f"{where}: {problem.what}")
    if problems:
        raise fail(f"{shards}: {len(problems)} problems")
    mixed = open_shards(shards)
    say(f"{shards}: {len(mixed)} sequences verified")
    if tokenizer_of(mixed.manifest) is None:
        say("  token counts were not checked: the manifest's tokenizer is not here")


@app.command(epilog=examples("mixwright report runs/demo"))
def report(run: RunFolder) -> None:
    """Write a run's report: one HTML file with pictures and plots."""
    with told():
        from shards.storage import location

        say(str(_report(location(run))))


def _report(run: "Location") -> "Location":
    from shards.report.page import write_report

    page: Location = write_report(run)
    return page


@config_app.command(
    epilog=examples(
        "mixwright config show configs/mm1.yaml", "mixwright config show my.yaml --set seed=7"
    )
)
def show(config: Config, assignments: Set = None) -> None:
    """Print a checked recipe with every default filled in."""
    with told():
        import yaml

        from pipelines.config.recipe import load_recipe

        tree: Mapping[str, Any] = load_recipe(config, assignments or []).model_dump(mode="json")
        say(yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True).rstrip())


if __name__ == "__main__":
    app()
