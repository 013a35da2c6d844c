"""Jobs that outlive their submitter, on a job server of Beam's own."""

import threading
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.local_job_service import LocalJobServicer

from pipelines.engines.jobs import State, cancel_abandoned

GOES_ON = threading.Event()


@pytest.fixture
def endpoint(tmp_path: Any) -> Iterator[str]:
    server = LocalJobServicer(str(tmp_path))
    port = server.start_grpc_server(0)
    yield f"localhost:{port}"
    GOES_ON.set()
    server.stop()
    GOES_ON.clear()


def wait(_number: int) -> None:
    GOES_ON.wait(60)


def submit(endpoint: str, name: str) -> Any:
    """A job that ends when the test does."""
    options = ["--runner=PortableRunner", f"--job_endpoint={endpoint}", f"--job_name={name}"]
    pipeline = beam.Pipeline(options=PipelineOptions([*options, "--environment_type=LOOPBACK"]))
    _ = pipeline | beam.Create([1]) | beam.Map(wait)
    return pipeline.run()


def test_only_the_jobs_of_the_run_are_cancelled(endpoint: str):
    ours, other = submit(endpoint, "mixwright-a"), submit(endpoint, "mixwright-b")
    assert cancel_abandoned(endpoint, "mixwright-a") == 1
    assert cancel_abandoned(endpoint, "mixwright-a") == 0
    assert ours.state == State.Enum.Name(State.CANCELLED)
    assert other.state == State.Enum.Name(State.RUNNING)


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(ConnectionError, match=r"no Beam job server answers at localhost:1:"):
        cancel_abandoned("localhost:1", "mixwright-a")
