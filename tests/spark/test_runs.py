"""On Spark: small pipelines, and whole runs to the bytes of the laptop, whoever dies."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
import psutil
import pytest
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineResult

from pipelines.config.recipe import Recipe, load_recipe
from pipelines.fetching.site import Site
from shards import ledger
from tests.jvm import require_java
from tests.pipelines.small import digests, run_quietly, small_recipe
from tests.spark.cluster import Cluster, cluster, worker_pool

# Executors leave without a word to workers that are threads of this process.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
SQUARES = {last: [n * n for n in range(last, 60, 10)] for last in range(10)}
POOL = "apache_beam.runners.worker.worker_pool_main"


@pytest.fixture(scope="module", autouse=True)
def java() -> None:
    require_java()


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("spark")) as running:
        yield running


# The cluster


class Square(beam.DoFn):
    """Squares, and has the worker that sees 37 first die of it."""

    def __init__(self, died: Path | None) -> None:
        self.died = died

    def process(self, number: int) -> Iterator[tuple[int, int]]:
        if number == 37 and self.died and not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        Metrics.counter("cluster", "squared").inc()
        yield number % 10, number * number


def squares(spark: Cluster, output: Path, died: Path | None, *worker: str) -> PipelineResult:
    """Runs a pipeline of two shuffles that writes one file for each last digit."""

    def write(group: tuple[int, Iterable[int]]) -> None:
        (output / f"{group[0]}.json").write_text(json.dumps(sorted(group[1])))

    output.mkdir()
    options = [
        "--runner=PortableRunner",
        f"--job_endpoint={spark.job_endpoint}",
        f"--files_to_stage={spark.files_to_stage}",
        "--environment_cache_millis=600000",
        *worker,
    ]
    pipeline = beam.Pipeline(options=PipelineOptions(options))
    spread = pipeline | beam.Create(range(60)) | beam.Reshuffle()
    _ = spread | beam.ParDo(Square(died)) | beam.GroupByKey() | beam.Map(write)
    result = pipeline.run()
    result.wait_until_finish()
    return result


def written(output: Path) -> dict[int, list[int]]:
    return {int(file.stem): json.loads(file.read_text()) for file in output.glob("*.json")}


def counted(result: PipelineResult) -> int:
    query = result.metrics().query(MetricsFilter().with_name("squared"))
    return sum(counter.attempted for counter in query["counters"])


def test_workers_in_the_submitting_process(spark: Cluster, tmp_path: Path) -> None:
    result = squares(spark, tmp_path / "out", None, "--environment_type=LOOPBACK")

    assert written(tmp_path / "out") == SQUARES
    assert counted(result) == 60


def test_workers_of_a_pool_of_which_one_is_killed(spark: Cluster, tmp_path: Path) -> None:
    with worker_pool(tmp_path) as address:
        pool = ("--environment_type=EXTERNAL", f"--environment_config={address}")
        result = squares(spark, tmp_path / "out", tmp_path / "died", *pool)

    assert (tmp_path / "died").exists()
    assert written(tmp_path / "out") == SQUARES
    assert counted(result) == 60  # what the killed worker had counted is not


def test_what_does_not_start_says_why(tmp_path: Path) -> None:
    bad = pytest.raises(
        RuntimeError, match=r"(?s)worker-1 ended with 1; .*worker-1\.log:\n.*Usage: Worker"
    )

    with bad, cluster(tmp_path, executor_memory="abc"):
        pass

    left = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in left if str(tmp_path) in " ".join(line)]


# Runs


def on_spark(spark: Cluster, folder: Path, given: Path, site: Site, **environment: str) -> Recipe:
    runner = {
        "engine": "spark",
        "spark": {"job_endpoint": spark.job_endpoint, **environment},
        "options": {"files_to_stage": spark.files_to_stage},
    }
    path = small_recipe(folder / "r.yaml", folder / "run", given, site, **runner)
    return load_recipe(path)


def pool_workers() -> list[psutil.Process]:
    pools = [p for p in psutil.Process().children() if POOL in p.cmdline()]
    watchers = [watcher for pool in pools for watcher in pool.children()]
    return [worker for watcher in watchers for worker in watcher.children()]


@contextmanager
def killing_one(out: Path, parts: str) -> Iterator[list[int]]:
    """Kills a worker of the pool as soon as a file of `out` is like `parts`; tells which."""
    killed: list[int] = []
    over = threading.Event()

    def wait_and_kill() -> None:
        while not over.is_set() and not any(out.glob(parts)):
            time.sleep(0.02)
        for worker in pool_workers()[:1]:
            worker.kill()
            killed.append(worker.pid)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_workers_in_the_submitting_process_write_the_same_bytes(
    spark: Cluster, small_run: Recipe, small_input: Path, site: Site, tmp_path: Path
) -> None:
    recipe = on_spark(spark, tmp_path, small_input, site, environment="loopback")
    ran = run_quietly(recipe)
    assert digests(recipe) == digests(small_run)
    assert sorted(ran) == sorted(name for name, _ in ledger.stage_folders(small_run.out))


def test_workers_of_a_pool_of_which_one_is_killed_write_the_same_bytes(
    spark: Cluster, small_run: Recipe, small_input: Path, site: Site, tmp_path: Path
) -> None:
    """In the middle of a stage: some of its parts are written, and others are not."""
    with worker_pool(tmp_path) as address:
        recipe = on_spark(spark, tmp_path, small_input, site, environment="external", pool=address)
        assert isinstance(recipe.out, Path)
        with killing_one(recipe.out, "captions/filter/*/counts/*.json") as killed:
            run_quietly(recipe)
    assert killed
    assert digests(recipe) == digests(small_run)
