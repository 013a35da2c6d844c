"""A small recipe on the sample, and how tests run it."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import yaml

from pipelines.config.recipe import Recipe
from pipelines.engines.runners import pipeline_options
from pipelines.fetching.site import Site
from pipelines.recipe import stages_of
from pipelines.run import execute, plan
from pipelines.terminal.status import begin
from shards import ledger
from shards.storage import names, sha256_file

SAMPLE = Path(__file__).parent.parent / "data" / "sample"
CONFIGS = Path(__file__).parent.parent.parent / "configs"


def small_recipe(path: Path, out: Path | str, given: Path, site: Site, **runner: Any) -> Path:
    """The demo's recipe on the small input, written to `path`."""
    tree = yaml.safe_load((CONFIGS / "demo.yaml").read_text())
    tree["out"] = str(out)
    tree["download"]["connect_to"] = {"*.mixwright.example": site.address}
    tree["runner"] = runner
    corpora = tree["corpora"]
    corpora["captions"]["read"] |= {"files": [str(given / "captions.parquet")], "rows_per_part": 40}
    for kind in ("interleaved", "text"):
        corpora[kind]["read"]["files"] = [str(given / kind / "*.warc.gz")]
    tree["mix"] |= {"documents_per_partition": 20, "sequences_per_shard": 4}
    path.write_text(yaml.safe_dump(tree))
    return path


def run_quietly(recipe: Recipe) -> list[str]:
    """Run a recipe; returns the names of the stages that ran."""
    ran: list[str] = []
    stages = stages_of(recipe)
    begin(recipe.out, [stage.name for stage in stages], recipe.runner.engine, {})
    execute(
        recipe.out,
        plan(recipe.out, stages),
        pipeline_options(recipe),
        watch=lambda places: nullcontext(),
        done=lambda name, counts, metrics: ran.append(name),
    )
    return ran


def digests(recipe: Recipe) -> dict[str, str]:
    """The sha256 of every shard, of its index, and of the manifest."""
    folder = ledger.current(recipe.out / "shards")
    files = [name for name in names(folder) if name.startswith(("mixwright-", "manifest"))]
    return {name: sha256_file(folder / name) for name in files}
