"""Worker processes of Beam's local engine: forked from one that has imported what they need.

Beam would start each as a new interpreter, which takes seconds to import it, for every job of a
run; and it would wait for ever for one that has died.
"""

import os
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
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

from pipelines.engines.forks import context

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
        errors = Connection(os.dup(2), readable=False)
        work = (os.environ | given, errors)
        self._process = context().Process(target=_work, args=work, daemon=True)
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


def _work(environment: Mapping[str, str], errors: Connection) -> None:
    """Beam's own worker, which is told what to do by the variables of the environment.

    What it says of errors goes where the command has it go by now.
    """
    os.dup2(errors.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    sdk_worker_main.main([])
