"""Logs as lines of JSON: what this process and Beam's workers say during a run."""

import json
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from shards.storage import Location, exists, read_bytes, write_atomic

LOG_FILE = "run.log"
ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one line, with the fields of its `extra` and its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in ATTRIBUTES}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


@contextmanager
def logs_to(run: Location) -> Iterator[None]:
    """Log to `run.log` for the time of a run.

    What processes print on standard error goes there as well. Objects cannot be appended to, so
    the log of a run in a store is kept in a local file, and copied there at the end.
    """
    local = run / LOG_FILE if isinstance(run, Path) else _beside(run)
    local.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(local, encoding="utf-8")
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    others = root.handlers[:]
    root.handlers[:] = [handler]
    for name in ("mixwright", "stderr"):
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        with _standard_error_to(logging.getLogger("stderr")):
            yield
    finally:
        root.handlers[:] = others
        handler.close()
        if not isinstance(run, Path):
            before = read_bytes(run / LOG_FILE) if exists(run / LOG_FILE) else b""
            write_atomic(run / LOG_FILE, before + read_bytes(local))
            local.unlink()


def _beside(run: Location) -> Path:
    return Path(tempfile.gettempdir()) / f"mixwright-{run.name}-{os.getpid()}.log"


@contextmanager
def _standard_error_to(logger: logging.Logger) -> Iterator[None]:
    """Turn lines on the file descriptor of standard error, ours and children's, into records."""
    # It lives as long as this process does, and would hold the pipe open for as long.
    resource_tracker.ensure_running()
    sys.stderr.flush()
    saved = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    thread = threading.Thread(target=_copy_lines, args=(reading, logger), daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        # A worker that outlives the run may hold the pipe open; its last words are not waited for.
        thread.join(timeout=2)


def _copy_lines(reading: int, logger: logging.Logger) -> None:
    with os.fdopen(reading, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.strip():
                logger.info(line.rstrip("\n"))
