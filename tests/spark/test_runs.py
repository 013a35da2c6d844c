"""Whole runs on Spark: the bytes of the laptop, whoever runs the Python, and whoever dies."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipelines.config import Recipe, load_recipe
from pipelines.fetching.site import Site
from shards import ledger
from tests.jvm import require_java
from tests.pipelines.small import digests, run_quietly, small_recipe
from tests.spark.cluster import Cluster, cluster, worker_pool

pytestmark = [
    pytest.mark.xdist_group("spark"),
    # Executors leave without a word to workers that are threads of this process.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
POOL = "apache_beam.runners.worker.worker_pool_main"


@pytest.fixture(scope="module", autouse=True)
def java() -> None:
    require_java()


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("spark")) as running:
        yield running


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
