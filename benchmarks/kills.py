"""Kills what takes part in a run, at random moments, and sees that the same bytes come out.

Each trial starts `mixwright run` on a small input, strikes once, and runs the same command again
until it succeeds; then the sha256 of every shard, index and of the manifest must be those of a run
that nothing disturbed. Struck are:

- worker: one of Beam's Python workers, of the local engine or of a pool beside a Spark cluster;
- executor: a JVM of the cluster that runs tasks;
- submitter: `mixwright run` itself, alone (its workers live on) or with its process group;
- storage: the S3 server that the run writes to, which refuses connections for half a minute.

The moments are spread over the time that an undisturbed run takes, one in each tenth of it, where
in the tenth by a hash of the seed. A trial that finds nothing to strike, because the run is about
to end, is made again at an earlier moment.

    make bench-kills                  # ten of each: twenty to thirty minutes on two idle cores
    make bench-kills ARGS=--quick     # one worker and one submitter of the local engine

Every trial is a line of FOLDER/trials.jsonl as soon as it has ended, and is not made again. The
Spark cluster, the pool, the S3 server and the web site stay up from trial to trial.
"""

import argparse
import csv
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import checkout
import psutil
import pyarrow.parquet as pq

from pipelines.fetching.crawl import crawl
from pipelines.fetching.site import Site
from pipelines.fetching.site import serve as serve_site
from pipelines.terminal.status import read_status
from shards import ledger
from shards.storage import Location, location, names, read_json, remove_tree, sha256_file
from tests.pipelines.small import SAMPLE, small_recipe
from tests.servers import s3
from tests.spark.cluster import Cluster, cluster, worker_pool

HOSTS = "*.mixwright.example"
BUCKET = "kills"
BEAM = "apache_beam.runners.worker"
EVERY_CAPTION, EVERY_PAGE = 24, 20  # of the sample's, so that a run takes some twenty seconds
SETS = ["mix.sequences_per_shard=2", "download.partitions=2"]
OUTAGE = 30.0  # seconds
LIMIT = 600.0  # seconds after which a run is taken to hang
DRAWS = 2**32
MOST_RESUMES, PAUSE = 20, 5.0  # seconds between two resumes
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "kills",
    "AWS_SECRET_ACCESS_KEY": "kills",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(frozen=True)
class World:
    """What stays up over the trials."""

    folder: Path
    site: Site
    spark: Cluster | None
    pool: str | None

    def out(self, setting: str) -> Location:
        """The run's folder."""
        return location(f"s3://{BUCKET}/run") if setting == "s3" else self.folder / "run"

    def runner(self, setting: str) -> dict[str, Any]:
        """The recipe's section; a setting is "local", "s3", or an environment on Spark."""
        if self.spark is None or setting in ("local", "s3"):
            return {}
        reached = {"job_endpoint": self.spark.job_endpoint, "environment": setting}
        pool = {"pool": self.pool} if self.pool else {}
        options = {"files_to_stage": self.spark.files_to_stage}
        return {"engine": "spark", "spark": reached | pool, "options": options}

    def executors(self) -> list[psutil.Process]:
        """The cluster's JVMs that run tasks."""
        return _processes(self.spark.executors()) if self.spark else []


# Runs


@dataclass
class Run:
    """A run of the command, over all its resumes."""

    world: World
    setting: str
    process: psutil.Popen = field(init=False)
    groups: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        remove_tree(self.world.out(self.setting))
        self.started = time.monotonic()
        self.start()

    @property
    def out(self) -> Location:
        """The run's folder."""
        return self.world.out(self.setting)

    @property
    def log(self) -> Path:
        """What the command prints."""
        return self.world.folder / "command.log"

    def start(self) -> None:
        """Run the command, which goes on where it was."""
        world, path = self.world, self.world.folder / f"{self.setting}.yaml"
        runner = world.runner(self.setting)
        small_recipe(path, str(self.out), world.folder / "input", world.site, **runner)
        sets = [word for assignment in SETS for word in ("--set", assignment)]
        command = [sys.executable, "-m", "pipelines.cli", "run", str(path), *sets]
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                command,
                cwd=checkout.ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.groups.append(self.process.pid)

    def wait(self, left: "Left") -> int | None:
        """The exit code; None if the run hung and was killed."""
        until = time.monotonic() + LIMIT
        while self.process.poll() is None:
            left.look()
            if time.monotonic() > until:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
                return None
            time.sleep(0.1)
        return int(self.process.returncode)

    def said(self) -> str:
        """The last error that the command has told."""
        lines = self.log.read_text(errors="replace").splitlines()
        told = [line for line in lines if line.startswith("error: ")]
        return told[-1].removeprefix("error: ")[:200] if told else ""

    def seconds(self) -> float:
        """Since the first start."""
        return time.monotonic() - self.started

    def clean(self) -> None:
        """End what is left of the run, on this machine and in the cluster."""
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        until = time.monotonic() + LIMIT
        while self.world.executors() and time.monotonic() < until:
            time.sleep(0.2)
        for worker in pool_workers():
            worker.kill()


def digests(out: Location) -> dict[str, str]:
    """The sha256 of every shard, of its index, and of the manifest."""
    folder = ledger.current(out / "shards")
    files = [name for name in names(folder) if name.startswith(("mixwright-", "manifest"))]
    return {name: sha256_file(folder / name) for name in files}


def reached(out: Location) -> tuple[int, str]:
    """How many stages have all their parts, and which are partly written, or come next."""
    status = read_status(out)
    wave = status.wave if status else {}
    parts = {
        name: len(ledger.parts_done(out / name / folder)) for name, (folder, _) in wave.items()
    }
    committed = [name for name in stages(out) if ledger.about(out / name) and name not in wave]
    full = [name for name, (_, wanted) in wave.items() if parts[name] == wanted]
    partly = [name for name in wave if parts[name] and name not in full]
    waiting = [name for name in wave if not parts[name]]
    return len(committed) + len(full), ", ".join(partly or waiting[:1]) or "between jobs"


def stages(out: Location) -> list[str]:
    """The names of the run's stages; none before it has begun."""
    try:
        return [*read_json(out / ledger.RUN_FILE)["stages"]]
    except FileNotFoundError:
        return []


# Strikes: who can be struck, and how


def _processes(pids: Sequence[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return [process for process in found if _alive(process)]


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _children(process: psutil.Process, word: str = "") -> list[psutil.Process]:
    """What it has started, or those whose command has the word; not the shells around them."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if _alive(child) and (not word or word in child.cmdline()):
                    found.append(child)
    return sorted(found, key=lambda child: child.pid)


def pool_workers() -> list[psutil.Process]:
    """The Python workers that pools of this process have started, without what watches each."""
    pools = _children(psutil.Process(), f"{BEAM}.worker_pool_main")
    watchers = [watcher for pool in pools for watcher in pool.children()]
    return [worker for watcher in watchers for worker in _children(watcher)]


def workers(run: Run) -> list[psutil.Process]:
    """Beam's Python workers; the local engine forks them from a child of the command."""
    if run.setting == "external":
        return pool_workers()
    with suppress(psutil.NoSuchProcess):
        forked = [worker for server in run.process.children() for worker in server.children()]
        return _processes([worker.pid for worker in forked])
    return []


def executors(run: Run) -> list[psutil.Process]:
    """The cluster's executors."""
    return run.world.executors()


def submitter(run: Run) -> list[psutil.Process]:
    """The command."""
    return [run.process] if run.process.poll() is None else []


def kill(process: psutil.Process) -> None:
    """The process alone."""
    process.kill()


def kill_group(process: psutil.Process) -> None:
    """The process with all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)


def cut_off(_process: psutil.Process) -> None:
    """The S3 server refuses connections for a while."""
    s3.control(os.environ["AWS_ENDPOINT_URL"], "down", seconds=OUTAGE)


@dataclass(frozen=True)
class Strike:
    """Where a run takes place, whom to look for, and what to do."""

    setting: str
    victims: Callable[[Run], list[psutil.Process]]
    act: Callable[[psutil.Process], None] = kill


# Each kind's trials take turns.
KINDS = {
    "worker": [Strike("local", workers), Strike("external", workers)],
    "executor": [Strike("external", executors), Strike("loopback", executors)],
    "submitter": [
        Strike("local", submitter),
        Strike("external", submitter),
        Strike("local", submitter, kill_group),
        Strike("external", submitter, kill_group),
        Strike("loopback", submitter, kill_group),
    ],
    "storage": [Strike("s3", submitter, cut_off)],
}
QUICK = ("worker", "submitter")


@dataclass
class Left:
    """Processes that outlive what was struck, and when one of them was last seen."""

    processes: list[psutil.Process]
    struck: float = field(default_factory=time.monotonic)
    seen: float = 0.0

    def look(self) -> None:
        """Forget those that have ended."""
        self.processes = [process for process in self.processes if _alive(process)]
        if self.processes:
            self.seen = time.monotonic() - self.struck


def left_by(run: Run, strike: Strike) -> Left:
    """What a killed submitter leaves: workers, or a job that the cluster goes on with."""
    if strike.victims is not submitter or strike.act is cut_off:
        return Left([])
    return Left([*_children(run.process), *run.world.executors(), *pool_workers()])


# Trials


def drawn(seed: int, kind: str, number: int) -> int:
    """A number below `DRAWS` that depends on the trial alone."""
    return int(hashlib.sha256(f"{seed} {kind} {number}".encode()).hexdigest()[:8], 16)


def strike_at(run: Run, strike: Strike, moment: float, draw: int) -> dict[str, Any] | None:
    """Wait, strike, and run again until it is done; None if there was nothing to strike."""
    while run.seconds() < moment or not (victims := strike.victims(run)):
        if run.process.poll() is not None:
            return None
        time.sleep(0.02)
    done, under_way = reached(run.out)
    left = left_by(run, strike)
    at = run.seconds()
    strike.act(victims[draw % len(victims)])
    left.struck = time.monotonic()
    code, resumes, said = run.wait(left), 0, []
    survived, hung = code == 0, code is None
    while code != 0 and resumes < MOST_RESUMES:
        said.append(run.said())
        time.sleep(PAUSE if resumes else 0)
        run.start()
        code, resumes = run.wait(left), resumes + 1
    return {
        "second": round(at, 1),
        "under_way": under_way,
        "stages_done": done,
        "survived": survived,
        "hung": hung,
        "resumes": resumes,
        "left_seconds": round(left.seen, 1),
        "seconds": round(run.seconds(), 1),
        "said": said,
        "digests": digests(run.out) if code == 0 else {},
    }


def trial(world: World, kind: str, number: int, moments: int, seed: int) -> dict[str, Any]:
    """Trial `number` of so many, struck in its share of the time that such a run takes."""
    strike = KINDS[kind][number % len(KINDS[kind])]
    undisturbed = undisturbed_run(world, strike.setting)
    draw, seconds, outcome = drawn(seed, kind, number), undisturbed["seconds"], None
    while outcome is None:
        run = Run(world, strike.setting)
        try:
            moment = (number + draw / DRAWS) / moments * seconds
            outcome = strike_at(run, strike, moment, draw)
            seconds = 0.9 * min(seconds, run.seconds())
        finally:
            run.clean()
    same = outcome.pop("digests") == undisturbed["digests"]
    about = {"setting": strike.setting, "how": strike.act.__name__, "same": same}
    return {"kind": kind, "number": number, **about, **outcome}


def measure(world: World, setting: str) -> dict[str, Any]:
    """A run that nothing disturbs."""
    run = Run(world, setting)
    try:
        code, seconds = run.wait(Left([])), run.seconds()
        if code != 0:
            raise SystemExit(f"an undisturbed run fails ({setting}): {run.said()}; see {run.log}")
        return {"undisturbed": setting, "seconds": round(seconds, 1), "digests": digests(run.out)}
    finally:
        run.clean()


# The table


def rows_file(world: World) -> Path:
    """Where the trials are kept."""
    return world.folder / "trials.jsonl"


def rows(world: World) -> list[dict[str, Any]]:
    """What has been measured."""
    path = rows_file(world)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(world: World, row: dict[str, Any]) -> None:
    """Add a row."""
    with rows_file(world).open("a") as file:
        file.write(json.dumps(row) + "\n")


def undisturbed_run(world: World, setting: str) -> dict[str, Any]:
    """The row of the setting's undisturbed run, which is made if there is none."""
    for row in rows(world):
        if row.get("undisturbed") == setting:
            return row
    keep(world, measure(world, setting))
    return undisturbed_run(world, setting)


HEAD = (
    f"{'kind':<10}{'where':<10}{'how':<11}{'second':>7}{'done':>5}  {'survived':<9}{'resumes':>7}"
    f"{'left':>6}{'s':>7}  {'bytes':<7}under way"
)


def shown(row: Mapping[str, Any]) -> str:
    """A trial's line of the table."""
    survived = "hung" if row["hung"] else "yes" if row["survived"] else "no"
    same = "same" if row["same"] else "DIFFER"
    return (
        f"{row['kind']:<10}{row['setting']:<10}{row['how']:<11}{row['second']:>7}"
        f"{row['stages_done']:>5}  {survived:<9}{row['resumes']:>7}{row['left_seconds']:>6}"
        f"{row['seconds']:>7}  {same:<7}{row['under_way']}"
    )


def figures(kind: str, trials: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """A kind's share of the last line."""
    return {
        f"{kind}_trials": len(trials),
        f"{kind}_survived": sum(row["survived"] for row in trials),
        f"{kind}_hung": sum(row["hung"] for row in trials),
        f"{kind}_most_resumes": max(row["resumes"] for row in trials),
        f"{kind}_median_s": statistics.median(row["seconds"] for row in trials),
        f"{kind}_differ": sum(not row["same"] for row in trials),
    }


def make_trials(world: World, kinds: Sequence[str], moments: int, seed: int) -> None:
    """Make the trials that have not been made, and print them all."""
    settings = [strike.setting for kind in kinds for strike in KINDS[kind][:moments]]
    for setting in dict.fromkeys(settings):
        row = undisturbed_run(world, setting)
        print(f"undisturbed, {setting}: {row['seconds']} s", flush=True)
    print(HEAD)
    made = {(row["kind"], row["number"]): row for row in rows(world) if "kind" in row}
    for kind in kinds:
        for number in range(moments):
            if (kind, number) not in made:
                made[kind, number] = trial(world, kind, number, moments, seed)
                keep(world, made[kind, number])
            print(shown(made[kind, number]), flush=True)
    wanted = {kind: [made[kind, number] for number in range(moments)] for kind in kinds}
    found = {k: v for kind, trials in wanted.items() for k, v in figures(kind, trials).items()}
    found |= {f"{row['undisturbed']}_s": row["seconds"] for row in rows(world) if "kind" not in row}
    print(json.dumps(found))
    if any(not row["same"] for trials in wanted.values() for row in trials):
        raise SystemExit(1)


def make_input(folder: Path, site: Site) -> None:
    """A few captions and pages of the sample."""
    captions = pq.read_table(SAMPLE / "captions.parquet")
    folder.mkdir(parents=True)
    some = captions.take(list(range(0, captions.num_rows, EVERY_CAPTION)))
    pq.write_table(some, folder / "captions.parquet")
    with (SAMPLE / "pages.tsv").open(encoding="utf-8", newline="") as file:
        pages = list(csv.DictReader(file, delimiter="\t"))
    for kind in ("interleaved", "text"):
        urls = [row["url"] for row in pages if row["kind"] == kind][::EVERY_PAGE]
        crawl(urls, {HOSTS: site.address}, folder / kind, 2)


@contextmanager
def serve_s3() -> Iterator[str]:
    """An S3 server with a bucket, in a process of its own; its endpoint."""
    command = [sys.executable, s3.__file__, "--bucket", BUCKET]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


@contextmanager
def world(folder: Path, kinds: Sequence[str], moments: int) -> Iterator[World]:
    """Everything that the trials of some kinds need."""
    settings = {strike.setting for kind in kinds for strike in KINDS[kind][:moments]}
    spark = pool = None
    with ExitStack() as stack:
        site = stack.enter_context(serve_site(SAMPLE))
        if not (folder / "input").exists():
            make_input(folder / "input", site)
        if "s3" in settings:
            os.environ["AWS_ENDPOINT_URL"] = stack.enter_context(serve_s3())
        if settings & {"external", "loopback"}:
            spark = stack.enter_context(cluster(folder / "spark"))
            pool = stack.enter_context(worker_pool(folder / "spark"))
        yield World(folder, site, spark, pool)


def main() -> None:
    """Read the options and print one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these")
    parser.add_argument("--folder", type=Path, default=checkout.ROOT / "runs" / "kills")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    kinds = options.kind or (QUICK if options.quick else list(KINDS))
    moments = 1 if options.quick else options.moments
    with world(options.folder.resolve(), kinds, moments) as ready:
        make_trials(ready, kinds, moments, options.seed)


if __name__ == "__main__":
    main()
