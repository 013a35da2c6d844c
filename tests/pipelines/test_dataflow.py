"""A Dataflow job that is built, staged on a loopback server and written, but not submitted."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.dataflow import load_steps, read_pipeline, shuffles, write_job
from shards.storage import read_json
from tests.servers.gcs import Gcs, serve

IMAGE = "registry.example/mixwright:1"
OPTIONS = {
    "runner": "DataflowRunner",
    "project": "our-project",
    "region": "europe-west4",
    "job_name": "small",
    "temp_location": "gs://staging/temp",
    "staging_location": "gs://staging/stage",
    "no_auth": True,
    "save_main_session": False,
    "sdk_container_image": IMAGE,
    "sdk_location": "container",
    "machine_type": "n2-standard-8",
    "disk_size_gb": 50,
    "num_workers": 3,
    "max_num_workers": 9,
    # The second one spares a `pip freeze`, which Beam would stage beside the pipeline.
    "experiments": ["shuffle_mode=service", "disable_logging_submission_environment"],
    "dry_run": True,
}


def by_parity(number: int) -> tuple[int, str]:
    return number % 2, str(number)


def times(factor: int, group: tuple[int, Any]) -> int:
    return factor * sum(int(text) for text in group[1])


def small_pipeline(**options: Any) -> beam.Pipeline:
    pipeline = beam.Pipeline(options=PipelineOptions(**OPTIONS | options))
    numbers = pipeline | beam.Create(range(10), reshuffle=False) | "spread" >> beam.Reshuffle()
    groups = numbers | "by parity" >> beam.Map(by_parity) | "group" >> beam.GroupByKey()
    _ = groups | "times" >> beam.Map(partial(times, 3))
    return pipeline


@pytest.fixture(scope="module")
def staging() -> Iterator[Gcs]:
    with serve("staging") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture(scope="module")
def written(staging: Gcs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    write_job(small_pipeline(), folder)
    return folder


def test_the_job_says_on_what_it_will_run(written: Path) -> None:
    job = read_json(written / "job.json")
    assert (job["name"], job["type"]) == ("small", "JOB_TYPE_BATCH")
    (pool,) = job["environment"]["workerPools"]
    assert pool["machineType"] == "n2-standard-8"
    assert pool["diskSizeGb"] == 50
    assert pool["numWorkers"] == 3
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 9
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert "shuffle_mode=service" in job["environment"]["experiments"]
    assert "use_runner_v2" in job["environment"]["experiments"]


def test_the_pipeline_is_staged_as_it_was_written(written: Path, staging: Gcs) -> None:
    job = read_json(written / "job.json")
    options = job["environment"]["sdkPipelineOptions"]["options"]
    key = options["pipelineUrl"].removeprefix("gs://staging/")
    staged = type(read_pipeline(written)).FromString(staging.data("staging")[key])
    assert staged == read_pipeline(written)
    assert key.startswith("stage/small.")


def test_what_crosses_a_shuffle(written: Path) -> None:
    assert shuffles(read_pipeline(written)) == [
        ("spread", "VarIntCoder"),
        ("group", "TupleCoder[VarIntCoder, StrUtf8Coder]"),
    ]


def test_a_pickled_coder_has_the_name_of_its_class(staging: Gcs, tmp_path: Path) -> None:
    pipeline = small_pipeline()
    numbers = pipeline | "more" >> beam.Create([1.5, 2.5], reshuffle=False)
    anything = numbers | "to anything" >> beam.Map(lambda number: {number})
    _ = anything | "shuffle anything" >> beam.Reshuffle()
    write_job(pipeline, tmp_path)
    assert dict(shuffles(read_pipeline(tmp_path)))["shuffle anything"] == "FastPrimitivesCoder"


def test_every_step_unpickles(written: Path) -> None:
    assert {"spread", "by parity", "group", "times"} <= set(load_steps(read_pipeline(written)))


def test_a_step_that_workers_cannot_import(written: Path, tmp_path: Path) -> None:
    """The small pipeline's functions are in the tests, which no worker has."""
    code = (
        "import sys; from pathlib import Path\n"
        "from pipelines.dataflow import load_steps, read_pipeline\n"
        "load_steps(read_pipeline(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-I", "-c", code, str(written)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'tests" in done.stderr
    assert "in the step " in done.stderr.splitlines()[-1]


def test_another_runner_makes_no_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FnApiRunner makes no Dataflow job"):
        write_job(small_pipeline(runner="FnApiRunner"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_submitted(
    staging: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apache_beam.runners.dataflow.internal import apiclient

    calls: list[Any] = []
    client = apiclient.DataflowApplicationClient
    monkeypatch.setattr(client, "submit_job_description", lambda *call: calls.append(call))
    write_job(small_pipeline(), tmp_path)
    assert calls == []


def test_a_bucket_that_is_not_there(staging: Gcs, tmp_path: Path) -> None:
    pipeline = small_pipeline(staging_location="gs://other/stage")
    with pytest.raises(FileNotFoundError, match="gs://other: no such bucket"):
        write_job(pipeline, tmp_path)
    assert list(tmp_path.iterdir()) == []
