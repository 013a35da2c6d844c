"""Which of Beam's local engines runs the demo's data path best: time, cores and memory.

Each engine runs the same recipe from the same crawled pages into a folder of its own, one after
another, in rounds; the hashes of the shards must agree. Prism is measured when its binary is
given (`--prism`) or on PATH: it is a Go program that Beam does not bring along.

    make bench-engines                       # the whole sample, three rounds
    make bench-engines ARGS=--quick          # the text corpus alone, one round
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
CHOSEN = "multi_processing"
MODES = ("in_memory", "multi_threading", CHOSEN)


def engine_options(engine: str, workers: int) -> list[str]:
    """Beam's options for an engine."""
    if engine in MODES:
        mode = [f"--direct_running_mode={engine}", f"--direct_num_workers={workers}"]
        return ["--runner=FnApiRunner", *mode]
    return ["--runner=PrismRunner", f"--prism_location={engine}", "--environment_type=LOOPBACK"]


def run_once(recipe: Path, out: Path, engine: str) -> None:
    """Run the recipe in this process on one engine."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from pipelines.config import load_recipe
    from pipelines.recipe import stages_of
    from pipelines.run import execute

    loaded = load_recipe(recipe, [f"out={out}"])
    options = PipelineOptions(engine_options(engine, psutil.cpu_count() or 1))
    execute(
        loaded.out,
        stages_of(loaded),
        options,
        watch=lambda places: nullcontext(),
        done=lambda name, counts, seconds: None,
    )


def measured(command: list[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak memory (MB, all processes together) of a command."""
    started, peak, cpu = time.monotonic(), 0, 0.0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
    """One hash over the bytes of all shards."""
    state = hashlib.sha256()
    for file in sorted((out / "shards").glob("mixwright-*")):
        state.update(file.read_bytes())
    return state.hexdigest()


def prepared(folder: Path, address: str, quick: bool) -> Path:
    """The demo's recipe and input in `folder`; returns the recipe's path."""
    import yaml

    from pipelines.config import load_recipe
    from pipelines.demo import HOSTS, SAMPLE, prepare

    connect = f"download.connect_to={json.dumps({HOSTS: address})}"
    recipe = load_recipe(ROOT / "configs" / "demo.yaml", [f"out={folder}", connect])
    prepare(recipe, SAMPLE, lambda what, total, done: None)
    tree = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    tree["download"]["connect_to"] = {HOSTS: address}
    corpora, given = tree["corpora"], folder / "input"
    corpora["captions"]["read"]["files"] = [str(given / "captions.parquet")]
    for kind in ("interleaved", "text"):
        corpora[kind]["read"]["files"] = [str(given / kind / "*.warc.gz")]
    if quick:
        tree["corpora"], tree["mix"]["weights"] = {"text": corpora["text"]}, {"text": 1}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def compare(engines: dict[str, str], recipe: Path, folder: Path, rounds: int) -> dict[str, float]:
    """Run every engine in every round; returns the figures of the last line."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    digests = set()
    for number in range(rounds):
        for name, engine in engines.items():
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            command = [sys.executable, __file__, "--once", engine, str(recipe), str(out)]
            wall, cpu, memory = measured(command)
            seconds[name].append(wall)
            digests.add(shard_digest(out))
            print(
                f"round {number + 1}  {name:<18} {wall:7.1f} s  "
                f"{cpu / wall:4.2f} cores  {memory:6,.0f} MB",
                flush=True,
            )
    if len(digests) > 1:
        raise SystemExit("the engines wrote different shards")
    medians = {f"{name}_s": round(statistics.median(s), 2) for name, s in seconds.items()}
    ratios = {
        f"{name}_ratio": round(statistics.median(s) / statistics.median(seconds[CHOSEN]), 3)
        for name, s in seconds.items()
        if name != CHOSEN
    }
    return medians | ratios


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
    from pipelines.demo import SAMPLE
    from pipelines.site import serve

    engines = {mode: mode for mode in MODES}
    if options.prism:
        engines["prism"] = options.prism
    with tempfile.TemporaryDirectory() as folder, serve(SAMPLE) as site:
        recipe = prepared(Path(folder), site.address, options.quick)
        print(json.dumps(compare(engines, recipe, Path(folder), 1 if options.quick else 3)))


if __name__ == "__main__":
    main()
