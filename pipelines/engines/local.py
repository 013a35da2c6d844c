"""Worker processes of Beam's local engine: forked from one that has imported what they need.

Beam would start each as a new interpreter, which takes seconds to import it, for every job of a
run; and it would wait for ever for one that has died.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    BeamFnControlServicer,
    GrpcWorkerHandler,
    WorkerHandler,
)
from apache_beam.runners.worker import sdk_worker_main
from google.protobuf import json_format, text_format

DIED = "a worker process died; a kill by the system is most often for want of memory"


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class _Worker(GrpcWorkerHandler):  # type: ignore[misc]
    """A worker process whose death is an error of what it was asked to do, and of what it will."""

    def __init__(self, _: bytes, *servers: Any) -> None:  # the first is the command of a new one
        super().__init__(*servers)

    def start_worker(self) -> None:
        control = self.control_api_service_descriptor()
        logging = self.logging_api_service_descriptor()
        options = self.provision_info.provision_info.pipeline_options
        given = {
            "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(control),
            "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(logging),
            "PIPELINE_OPTIONS": json_format.MessageToJson(options),
            "WORKER_ID": self.worker_id,
        }
        self._process = _context().Process(target=_work, args=(os.environ | given,), daemon=True)
        self._process.start()
        self._mourner = threading.Thread(target=self._mourn, daemon=True)
        self._mourner.start()

    def stop_worker(self) -> None:
        self._mourner.join()

    def close(self) -> None:
        # Beam would not tell one that has yet to connect, and wait for it.
        self.control_conn.push(BeamFnControlServicer._DONE_MARKER)
        super().close()

    def _mourn(self) -> None:
        self._process.join()
        while self.control_conn._state != BeamFnControlServicer.DONE_STATE:
            waiting: dict[str, Any] = self.control_conn._futures_by_id
            for name, future in list(waiting.items()):
                future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=DIED))
            time.sleep(0.1)


@contextmanager
def forks() -> Iterator[None]:
    """The process that workers are forked from starts ahead of the first and ends with the block.

    Left alone it would outlive the command, and hold open what the command writes its log to.
    """
    _context()
    forkserver.ensure_running()
    try:
        yield
    finally:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _context() -> ForkServerContext:
    """Forks of a process of its own, which has no threads of Beam's and no model of ours."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "pipelines.recipe"])
    return context


def _work(environment: Mapping[str, str]) -> None:
    """Beam's own worker, which is told what to do by the variables of the environment."""
    os.environ.clear()
    os.environ.update(environment)
    sdk_worker_main.main([])
