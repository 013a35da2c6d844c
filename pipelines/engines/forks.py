"""The process that the local engine's workers are forked from.

It is an interpreter of its own, which has no threads of Beam's and no model of ours, and imports
what workers need while the command reads its recipe and does the same: they start as soon as there
is work.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

LOADED = "pipelines.engines.loaded"


@contextmanager
def forks() -> Iterator[None]:
    """The process starts ahead of the first worker, and ends with the block.

    Left alone it would outlive the command.
    """
    keep_freed_memory()
    context()
    forkserver.ensure_running()
    try:
        yield
    finally:
        end()


def end() -> None:
    """End the process, if it runs, whatever it is loading still; no worker of it may be at work."""
    server: Any = forkserver._forkserver
    if server._forkserver_pid is not None:
        os.kill(server._forkserver_pid, signal.SIGTERM)
        server._stop()


def context() -> ForkServerContext:
    """What starts workers; the process is started by the first, if it does not run."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([LOADED])
    return found


def keep_freed_memory() -> None:
    """Let processes that are started reuse large buffers that they free, if glibc allocates them.

    By default it gives each tensor's memory back to the kernel and asks for it again, which took
    about half of the time of scoring the sample. The bounds keep a worker near 1.4 GB there.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**28))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**28))
