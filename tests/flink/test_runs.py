"""The same recipe on Flink makes the same bytes."""

import json
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.config.recipe import Recipe, load_recipe
from pipelines.fetching.site import Site
from shards import ledger
from shards.storage import read_json, sha256_file
from tests.flink.cluster import Cluster, cluster
from tests.jvm import require_java, worker_pool
from tests.pipelines.small import run_quietly, small_recipe

# Flink leaves without a word to workers that are threads of this process.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    require_java()
    with cluster(tmp_path_factory.mktemp("flink")) as running:
        yield running


class Square(beam.DoFn):
    """Squares and counts, and has the worker that sees 37 first die of it."""

    def __init__(self, died: Path) -> None:
        self.died = died

    def process(self, number: int) -> Iterator[tuple[int, int]]:
        if number == 37 and not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        Metrics.counter("cluster", "squared").inc()
        yield number % 10, number * number


def test_a_worker_of_a_pool_is_killed(flink: Cluster, tmp_path: Path) -> None:
    """The job starts over, and what was counted before is forgotten.

    Not so with --environment_cache_millis, which gives the dead worker to every new attempt.
    """

    def write(group: tuple[int, Iterable[int]]) -> None:
        (tmp_path / f"{group[0]}.json").write_text(json.dumps(sorted(group[1])))

    with worker_pool(tmp_path / "pool") as address:
        options = [
            "--runner=PortableRunner",
            f"--job_endpoint={flink.job_endpoint}",
            "--environment_type=EXTERNAL",
            f"--environment_config={address}",
        ]
        pipeline = beam.Pipeline(options=PipelineOptions(options))
        spread = pipeline | beam.Create(range(60)) | beam.Reshuffle()
        squared = spread | beam.ParDo(Square(tmp_path / "died"))
        _ = squared | beam.GroupByKey() | beam.Map(write)
        result = pipeline.run()
        result.wait_until_finish()

    assert (tmp_path / "died").exists()
    for last in range(10):
        squares = json.loads((tmp_path / f"{last}.json").read_text())
        assert squares == [number * number for number in range(last, 60, 10)]
    [counter] = result.metrics().query(MetricsFilter().with_name("squared"))["counters"]
    assert counter.committed == 60


def test_the_same_bytes_as_of_a_local_run(
    flink: Cluster, site: Site, small_input: Path, small_run: Recipe, tmp_path: Path
) -> None:
    reached = {"job_endpoint": flink.job_endpoint, "environment": "loopback"}
    path = small_recipe(
        tmp_path / "r.yaml", tmp_path / "run", small_input, site, engine="flink", flink=reached
    )
    run_quietly(load_recipe(path))

    local = hashes(small_run)
    assert len(local) > 2
    assert hashes(load_recipe(path)) == local


def hashes(recipe: Recipe) -> dict[str, str]:
    """Of every shard, and of the manifest."""
    folder = ledger.current(recipe.out / "shards")
    shards = [shard["name"] for shard in read_json(folder / "manifest.json")["shards"]]
    return {name: sha256_file(folder / name) for name in [*shards, "manifest.json"]}
