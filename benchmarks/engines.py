"""Which of Beam's local engines is the best default: time, cores and memory.

Two workloads: the demo's whole data path on the sample, where starting workers weighs most, and
the text corpus of the sample's pages read forty times over (about 20,000 pages), where work does.
Each engine runs the same recipe into a folder of its own, one after another, in rounds; the hashes
of the shards must agree. Prism is measured when its binary is given (`--prism`) or on PATH: it is
a Go program that Beam does not bring along.

    make bench-engines                       # both workloads, two rounds: about ten minutes
    make bench-engines ARGS=--quick          # the text corpus read four times, one round
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import checkout
import psutil
import yaml
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.config.recipe import load_recipe
from pipelines.demo import HOSTS, SAMPLE, prepare
from pipelines.fetching.site import serve
from pipelines.recipe import stages_of
from pipelines.run import execute, plan
from shards.loader import open_shards

DEMO = checkout.ROOT / "configs" / "demo.yaml"
CHOSEN = "multi_processing"
# What pipelines.engines.runners sets for its workers, here for every engine alike.
MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
}
MODES = ("in_memory", CHOSEN)


def engine_options(engine: str, workers: int) -> list[str]:
    """Beam's options for an engine."""
    if engine in MODES:
        mode = [f"--direct_running_mode={engine}", f"--direct_num_workers={workers}"]
        return ["--runner=FnApiRunner", *mode]
    return ["--runner=PrismRunner", f"--prism_location={engine}", "--environment_type=LOOPBACK"]


def run_once(recipe: Path, out: Path, engine: str) -> None:
    """Run the recipe in this process on one engine."""
    loaded = load_recipe(recipe, [f"out={out}"])
    execute(
        loaded.out,
        plan(loaded.out, stages_of(loaded)),
        PipelineOptions(engine_options(engine, psutil.cpu_count() or 1)),
        watch=lambda places: nullcontext(),
        done=lambda name, counts, seconds: None,
    )


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory (MB, all processes together) of a command."""
    started, peak, cpu = time.monotonic(), 0, 0.0
    quiet, environment = subprocess.DEVNULL, os.environ | MEMORY
    process = psutil.Popen(command, stdout=quiet, stderr=quiet, env=environment)
    seen: dict[int, float] = {}
    while process.poll() is None:
        memory = 0
        for one in _family(process):
            try:
                memory += one.memory_info().rss
                times = one.cpu_times()
                seen[one.pid] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, memory)
        time.sleep(0.1)
    cpu = sum(seen.values())
    if process.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.monotonic() - started, cpu, peak / 1e6


def _family(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def shard_digest(out: Path) -> str:
    """One hash over the bytes of all shards, by the sums that `mixwright verify` checks."""
    state = hashlib.sha256()
    for shard in open_shards(out / "shards").manifest["shards"]:
        state.update(shard["sha256"].encode())
    return state.hexdigest()


def crawled(folder: Path, address: str) -> dict[str, Any]:
    """The demo's recipe on input that is crawled into `folder`."""
    connect = f"download.connect_to={json.dumps({HOSTS: address})}"
    prepare(load_recipe(DEMO, [f"out={folder}", connect]), SAMPLE, lambda what, total, done: None)
    tree: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    tree["download"]["connect_to"] = {HOSTS: address}
    corpora, given = tree["corpora"], folder / "input"
    corpora["captions"]["read"]["files"] = [str(given / "captions.parquet")]
    for kind in ("interleaved", "text"):
        corpora[kind]["read"]["files"] = [str(given / kind / "*.warc.gz")]
    return tree


def text_only(tree: dict[str, Any], times: int) -> dict[str, Any]:
    """The recipe of the text corpus alone, with its WARCs read several times over."""
    text = tree["corpora"]["text"]
    text = text | {"read": {"files": text["read"]["files"] * times}}
    mix = tree["mix"] | {"weights": {"text": 1}}
    return tree | {"corpora": {"text": text}, "mix": mix}


def compare(
    name: str, engines: dict[str, str], recipe: Path, folder: Path, rounds: int
) -> dict[str, float]:
    """Run every engine in every round; returns the workload's figures of the last line."""
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    digests = set()
    for number in range(rounds):
        for engine, how in engines.items():
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            command = [sys.executable, __file__, "--once", how, str(recipe), str(out)]
            wall, cpu, memory = measured(command)
            seconds[engine].append(wall)
            digests.add(shard_digest(out))
            figures = f"{wall:7.1f} s  {cpu / wall:4.2f} cores  {memory:6,.0f} MB"
            print(f"{name}, round {number + 1}  {engine:<18} {figures}", flush=True)
    if len(digests) > 1:
        raise SystemExit("the engines wrote different shards")
    medians = {engine: statistics.median(times) for engine, times in seconds.items()}
    ratios = {
        f"{name}_{engine}_ratio": round(median / medians[CHOSEN], 3)
        for engine, median in medians.items()
        if engine != CHOSEN
    }
    return {f"{name}_{e}_s": round(median, 2) for e, median in medians.items()} | ratios


def main() -> None:
    """Read the options and print one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prism", default=shutil.which("prism"))
    parser.add_argument("--once", nargs=3, metavar=("ENGINE", "RECIPE", "OUT"))
    options = parser.parse_args()
    if options.once:
        engine, recipe, out = options.once
        run_once(Path(recipe), Path(out), engine)
        return
    engines = {mode: mode for mode in MODES}
    if options.prism:
        engines["prism"] = options.prism
    with tempfile.TemporaryDirectory() as name, serve(SAMPLE) as site:
        folder = Path(name)
        tree = crawled(folder, site.address)
        loads = {"pages": text_only(tree, 4 if options.quick else 40)}
        if not options.quick:
            loads["sample"] = tree
        figures: dict[str, float] = {}
        for load, recipe in loads.items():
            path = folder / f"{load}.yaml"
            path.write_text(yaml.safe_dump(recipe))
            figures |= compare(load, engines, path, folder, 1 if options.quick else 2)
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
