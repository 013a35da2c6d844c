"""A worker of a pool: against a control service as executors have, killed and told to stop."""

import queue
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import grpc
import psutil
import pytest
from apache_beam.portability.api import beam_fn_api_pb2_grpc

WAIT = 60  # seconds; importing Beam takes some


class Control(beam_fn_api_pb2_grpc.BeamFnControlServicer):
    """Notes who connects, and keeps the connection or hangs up."""

    def __init__(self) -> None:
        self.connected: queue.Queue[str] = queue.Queue()
        self.keep = True

    def Control(self, responses: Any, context: Any) -> Iterator[Any]:  # noqa: N802  Beam's name
        self.connected.put(dict(context.invocation_metadata())["worker_id"])
        yield from ()
        while self.keep:
            next(responses)


@pytest.fixture
def control() -> Iterator[tuple[Control, str]]:
    with ThreadPoolExecutor() as threads:
        server, servicer = grpc.server(threads), Control()
        beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(servicer, server)
        port = server.add_insecure_port("localhost:0")
        server.start()
        yield servicer, f"localhost:{port}"
        server.stop(0).wait()


@contextmanager
def worker(endpoint: str) -> Iterator[psutil.Popen]:
    options = ["--id=1-1", f"--control_endpoint={endpoint}", "--logging_endpoint=localhost:1"]
    with psutil.Popen([sys.executable, "-m", "pipelines.engines.worker", *options]) as process:
        try:
            yield process
        finally:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def test_a_killed_worker_is_started_again(control: tuple[Control, str]):
    servicer, endpoint = control
    with worker(endpoint) as process:
        assert servicer.connected.get(timeout=WAIT) == "1-1"
        (harness,) = process.children()
        harness.kill()
        assert servicer.connected.get(timeout=WAIT) == "1-1"
        assert process.children() != [harness]


def test_stopping_it_stops_the_worker(control: tuple[Control, str]):
    servicer, endpoint = control
    for stop in (signal.SIGTERM, signal.SIGKILL):
        with worker(endpoint) as process:
            servicer.connected.get(timeout=WAIT)
            (harness,) = process.children()
            process.send_signal(stop)
            process.wait(WAIT)
            assert psutil.wait_procs([harness], WAIT)[1] == []
        assert servicer.connected.empty()


def test_a_worker_whose_executor_hangs_up_ends(control: tuple[Control, str]):
    servicer, endpoint = control
    servicer.keep = False
    with worker(endpoint) as process:
        servicer.connected.get(timeout=WAIT)
        process.wait(WAIT)
    assert servicer.connected.empty()


def test_the_pool_s_options_are_needed():
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.engines.worker"], capture_output=True, text=True
    )
    assert done.returncode == 2 and "--id" in done.stderr
