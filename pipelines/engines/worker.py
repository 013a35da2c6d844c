"""A Python worker of Beam's worker pool that is started again when it is killed.

Beam's pool starts a worker and forgets it: an executor of Spark or Flink then waits without end
for one that was killed, by the system that ran out of memory for instance, before it had connected.
So the pool is told to start this (`--container_executable mixwright-worker`), which watches the
worker. A worker that ends by itself, as when its executor has gone, is not started again.
"""

import argparse
import ctypes
import multiprocessing
import os
import signal
import sys

STARTS = 4  # of a worker; one that is killed so often will be again
PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent has died


def main() -> None:
    """Run a worker, as the Beam pool's command line for containers says."""
    parser = argparse.ArgumentParser(prog="mixwright-worker", description=__doc__.splitlines()[0])
    parser.add_argument("--id", required=True)
    parser.add_argument("--control_endpoint", required=True, metavar="HOST:PORT")
    given, _ = parser.parse_known_args()
    # The pool reads nothing of what its workers print, and a full pipe would stop them.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.path.insert(0, "")  # as Beam's own workers have it: code in the pool's folder is found
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    sys.exit(watch(given.id, given.control_endpoint))


def watch(name: str, control: str) -> int:
    """Run a worker until it ends by itself; returns its exit code."""
    context = multiprocessing.get_context("fork")  # this process has a single thread
    code = 0
    for _ in range(STARTS):
        worker = context.Process(target=_work, args=(name, control), daemon=True)
        worker.start()
        worker.join()
        code = worker.exitcode or 0
        if code >= 0:
            break
        print(f"{name} was ended by signal {-code}", file=sys.stderr, flush=True)
    return abs(code)


def _work(name: str, control: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    from apache_beam.runners.worker.sdk_worker import SdkHarness

    SdkHarness(control, worker_id=name, state_cache_size=0, data_buffer_time_limit_ms=-1).run()


if __name__ == "__main__":
    main()
