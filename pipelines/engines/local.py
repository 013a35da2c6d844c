"""What Beam's local engine lacks: it waits for ever for a worker process that has died."""

import threading
import time
from typing import Any

from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import (
    BeamFnControlServicer,
    SubprocessSdkWorkerHandler,
    WorkerHandler,
)

DIED = "a worker process died; a kill by the system is most often for want of memory"


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class _Worker(SubprocessSdkWorkerHandler):  # type: ignore[misc]
    """A worker process whose death is an error of what it was asked to do, and of what it will."""

    def start_worker(self) -> None:
        super().start_worker()
        threading.Thread(target=self._mourn, daemon=True).start()

    def close(self) -> None:
        # Beam would not tell one that has yet to connect, and wait for it.
        self.control_conn.push(BeamFnControlServicer._DONE_MARKER)
        super().close()

    def _mourn(self) -> None:
        self.worker_thread.join()
        while self.control_conn._state != BeamFnControlServicer.DONE_STATE:
            waiting: dict[str, Any] = self.control_conn._futures_by_id
            for name, future in list(waiting.items()):
                future.set(beam_fn_api_pb2.InstructionResponse(instruction_id=name, error=DIED))
            time.sleep(0.1)
