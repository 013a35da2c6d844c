"""The demo: the bundled sample served on loopback, and the whole path run on it."""

import csv
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from configs.reading import ConfigError
from pipelines.config.recipe import Recipe
from pipelines.fetching.crawl import crawl
from pipelines.fetching.site import serve
from shards import ledger
from shards.loader import open_shards
from shards.storage import Location, atomic_path, exists

SAMPLE = Path(__file__).parent.parent / "tests" / "data" / "sample"
HOSTS = "*.mixwright.example"  # every host of the sample
WARCS = 4  # files a corpus


@contextmanager
def served(recipe: Recipe, sample: Path) -> Iterator[Recipe]:
    """The recipe with the sample's hosts connected to a loopback server."""
    if not (sample / "pages.tsv").exists():
        raise ConfigError(
            f"{sample}: not the sample (no pages.tsv); run in a checkout, or --sample"
        )
    with serve(sample) as site:
        download = recipe.download.model_copy(update={"connect_to": {HOSTS: site.address}})
        yield recipe.model_copy(update={"download": download})


def prepare(recipe: Recipe, sample: Path, progress: Callable[[str, int, int], None]) -> None:
    """Crawl the sample's pages into WARCs and lay the URL table beside them.

    `progress` is told what is crawled, how many pages there are and how many are done.
    """
    folder = recipe.out / "input"
    if not isinstance(folder, Path):
        raise ConfigError(f"out: the demo crawls into its own folder, so {recipe.out} cannot be it")
    if exists(folder / "captions.parquet"):
        return
    with (sample / "pages.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for kind in ("interleaved", "text"):
        urls = [row["url"] for row in rows if row["kind"] == kind]
        done = partial(progress, f"crawl {kind}", len(urls))
        crawl(urls, recipe.download.connect_to, folder / kind, WARCS, done)
    # Copied last: it says that the crawl is complete.
    with atomic_path(folder / "captions.parquet") as aside:
        shutil.copyfile(sample / "captions.parquet", aside)


def summary(run: Location, losses: tuple[float, float] | None, report: Location) -> list[str]:
    """The run in one screen."""
    lines = ["", f"{'corpus':<12} {'read':>6} {'kept':>6}  dropped by reason"]
    funnels = _funnels(run)
    for corpus, (read, kept, reasons) in funnels.items():
        top = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        text = ", ".join(f"{reason} {n}" for reason, n in top[:4])
        others = f", others {sum(n for _, n in top[4:])}" if len(top) > 4 else ""
        lines.append(f"{corpus:<12} {read:>6,} {kept:>6,}  {text}{others}")
    lines += ["", *_mixture(run)]
    if losses:
        lines.append(f"held-out loss  {losses[0]:.2f} → {losses[1]:.2f} nats a token")
    return [*lines, f"report         {report}"]


def _funnels(run: Location) -> dict[str, tuple[int, int, dict[str, int]]]:
    """Documents read by the first stage, kept by the last, and dropped by all, for each corpus."""
    funnels: dict[str, tuple[int, int, dict[str, int]]] = {}
    for name, folder in ledger.stage_folders(run):
        if "/" not in name:
            continue
        corpus, counts = name.split("/")[0], ledger.read_counts(folder)
        read, _, reasons = funnels.get(corpus, (counts.read["document"], 0, {}))
        lost = counts.dropped.get("document", {}) | counts.errors.get("document", {})
        merged = {r: reasons.get(r, 0) + lost.get(r, 0) for r in {**reasons, **lost}}
        funnels[corpus] = (read, counts.kept.get("document", 0), merged)
    return funnels


def _mixture(run: Location) -> list[str]:
    manifest: dict[str, Any] = open_shards(run / "shards").manifest
    whole, total = sum(manifest["weights"].values()), manifest["sequences"]
    lines = []
    for corpus, weight in manifest["weights"].items():
        sums = manifest["corpora"][corpus]
        lines.append(
            f"{corpus:<14} asked {weight / whole:6.2%}  got {sums['sequences'] / total:6.2%}"
            f"  {sums['sequences']:>5,} sequences  {sums['tokens']:>9,} tokens"
            f"  {sums['images']:>6,} images"
        )
    sizes = [shard["bytes"] / 1e6 for shard in manifest["shards"]]
    return [
        *lines,
        f"shards         {len(sizes)} of {min(sizes):.1f} to {max(sizes):.1f} MB, "
        f"{total} sequences of {manifest['seq_len']} tokens; "
        f"{manifest['stopped_by']} ran out first",
    ]
