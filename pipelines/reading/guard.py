"""Pages are parsed in a process of their own, which a page may end and the worker outlives.

HTML of a hundred kilobytes can keep a parser busy for minutes or fill any memory, and a parser in
C can be neither interrupted nor trusted not to crash. So each worker process has one child that
parses for it: pages go to it in batches, answers come back a few at a time. A page that takes more
than its share of processor time or memory ends the child, or is given up by it; it is answered
with a reason, and a new child goes on with the next page.

The limit of time is of the processor's, not the clock's, and that of memory is of what the page
itself asks for, so that what else runs on the machine, or was killed there, does not change what
comes out. Only a page whose parsing takes just about the limit can be kept on one machine and
dropped on another. A child that dies for any other reason is given the page once more.

The child is started afresh and not forked, since Beam's workers have threads; it imports only
what parsing needs, and leaves when the pipe from its parent closes, however the parent died.
"""

import fcntl
import json
import marshal
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

# A page of `records.MAX_BYTES` whose tree `html.parse_html` takes on needs a fraction of it.
PAGE_MEMORY = 1 << 30
HANGS = 60  # times the limit of processor time that a child may take by the clock
PIPE = 1 << 20  # bytes under way
F_SETPIPE_SZ = 1031  # of Linux; the fcntl module names it only there
LENGTH = struct.Struct("<Q")
STATM = Path("/proc/self/statm")
TOGETHER = 0.05  # seconds that answers wait for others, since waking the parent costs
HUNG = 256  # no exit status of a process
START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from pipelines.reading.guard import serve
serve(int(sys.argv[2]))
"""

Task = tuple[bytes | str, str | None, str | None, str]  # HTML, URL, charset, reader


class Answer(NamedTuple):
    """What became of a page: its parts and licence, or a reason ("dropped" or "error") why not."""

    parts: list[dict[str, Any]]
    licence: str | None = None
    reason: str | None = None
    detail: str | None = None
    kind: str = "dropped"


def read_pages(tasks: Sequence[Task], seconds: float) -> list[Answer]:
    """An answer for each page, in order; `seconds` of processor time each, start-up apart.

    Reasons beside those of `extract.read_page`: "page_timeout", "page_too_large_in_memory" (more
    than `PAGE_MEMORY` bytes) and, of kind "error", "extract_failed".

    Raises RuntimeError if no process for parsing can be started.
    """
    answers: dict[int, Answer] = {}
    failed: set[int] = set()  # pages at which a child was lost for no reason of the page's own
    with _lock:
        while todo := [page for page in range(len(tasks)) if page not in answers]:
            child = _child(os.getpid())
            try:
                found = child.read([tasks[page] for page in todo], seconds)
                answers.update(zip(todo, found, strict=True))
            except _EndedError:
                _child.cache_clear()
                page = todo[max(child.begun() - 1, 0)]
                answer = _reason(child.end(), seconds)
                if answer.kind == "dropped" or page in failed:
                    answers.setdefault(page, answer)
                failed.add(page)
            except BaseException:  # such as Ctrl-C; the answers under way are nobody's
                _child.cache_clear()
                child.stop()
                raise
    return [answers[page] for page in range(len(tasks))]


def _reason(status: int, seconds: float) -> Answer:
    """What is said of the page at which a child ended with `status`."""
    if status in (-signal.SIGPROF, HUNG):
        return Answer([], None, "page_timeout", f"more than {seconds:g} seconds")
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    return Answer([], None, "extract_failed", f"the parser ended with {name}", "error")


_lock = Lock()


@cache
def _child(pid: int) -> "_Child":
    """The child of process `pid`: what a fork inherits is not its own."""
    return _Child()


class _EndedError(Exception):
    """The child is gone, or has been sent away."""


class _Child:
    """The process that parses, and the pipes to it."""

    def __init__(self) -> None:
        path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        self._begun, begun = os.pipe()
        os.set_blocking(self._begun, False)
        command = [sys.executable, "-c", START, path, str(begun)]
        self._process = subprocess.Popen(  # noqa: S603  no input of others is in it
            command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[begun]
        )
        os.close(begun)
        assert self._process.stdin and self._process.stdout
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._arrivals = select.poll()
        self._arrivals.register(self._from, select.POLLIN)
        self._count = 0
        self._hung = False
        _widen(self._to)
        try:
            _receive(self._from)  # that it is ready
        except EOFError as error:
            raise RuntimeError(f"the process for parsing ended with {self.end()}") from error

    def read(self, tasks: Sequence[Task], seconds: float) -> Iterator[Answer]:
        """An answer a page; raises `_EndedError` where the child ends."""
        self._count, answered = 0, 0
        try:
            _send(self._to, (seconds, tasks))
            while answered < len(tasks):
                self._wait(seconds * HANGS)
                answers = _receive(self._from)
                self.begun()
                answered += len(answers)
                yield from (Answer(*answer) for answer in answers)
        except (BrokenPipeError, EOFError) as error:
            raise _EndedError from error

    def begun(self) -> int:
        """How many of the pages that it reads it has begun with."""
        with suppress(BlockingIOError):
            self._count += len(os.read(self._begun, PIPE))
        return self._count

    def _wait(self, seconds: float) -> None:
        if not self._arrivals.poll(seconds * 1000):
            self._hung = True
            self._process.kill()
            raise _EndedError

    def stop(self) -> None:
        """Ends the child."""
        self._process.kill()
        self.end()

    def end(self) -> int:
        """The exit status of a child that has ended, `HUNG` if it had to be ended."""
        os.close(self._begun)
        with self._process:  # closes the pipes and waits
            return HUNG if self._hung else self._process.wait()


def _widen(pipe: int) -> None:
    with suppress(OSError):  # not Linux, or its limit for this user is reached
        fcntl.fcntl(pipe, F_SETPIPE_SZ, PIPE)


def _send(pipe: int, message: Any) -> None:
    # marshal and not pickle: what a broken parser answers must not be able to run code here.
    data = marshal.dumps(message)
    view = memoryview(LENGTH.pack(len(data)) + data)
    while view:
        view = view[os.write(pipe, view) :]


def _receive(pipe: int) -> Any:
    return marshal.loads(_exactly(pipe, *LENGTH.unpack(_exactly(pipe, LENGTH.size))))  # noqa: S302


def _exactly(pipe: int, length: int) -> bytes:
    pieces = []
    while length:
        piece = os.read(pipe, min(length, PIPE))
        if not piece:
            raise EOFError
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


# In the child


def serve(begun: int) -> None:
    """Answers pages from standard input on standard output, until its end.

    A byte on the pipe `begun` says that a page is begun with: nobody has to wake up for it.
    """
    from pipelines.reading.extract import read_page

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process, even inside of C
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    statm = os.open(STATM, os.O_RDONLY) if STATM.exists() else None  # None: not Linux
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with suppress(EOFError, BrokenPipeError):
        _send(answers, "ready")
        while True:
            seconds, tasks = _receive(0)
            pending, sent = [], time.monotonic()
            for task in tasks:
                os.write(begun, b".")
                if statm is not None:
                    _limit_memory(statm, hard)
                signal.setitimer(signal.ITIMER_PROF, seconds)
                pending.append(tuple(_answer(read_page, task)))
                signal.setitimer(signal.ITIMER_PROF, 0)
                if time.monotonic() - sent > TOGETHER:
                    _send(answers, pending)
                    pending, sent = [], time.monotonic()
            _send(answers, pending)


def _limit_memory(statm: int, hard: int) -> None:
    """Lets this process have `PAGE_MEMORY` more than it has now."""
    pages = int(os.pread(statm, 64, 0).split()[0])
    wanted = pages * resource.getpagesize() + PAGE_MEMORY
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _answer(read_page: Callable[..., Any], task: Task) -> Answer:
    from resiliparse.parse.html import HTMLParserException

    from pipelines.reading.html import PageTooComplexError

    try:
        return Answer(*read_page(*task))
    except PageTooComplexError as error:
        return Answer([], None, "page_too_complex", str(error))
    except (MemoryError, HTMLParserException):  # HTML has no errors: the parser lacks memory
        return Answer([], None, "page_too_large_in_memory", f"more than {PAGE_MEMORY} bytes")
    except Exception as error:  # one page must not cost the others; it is counted as an error
        detail = f"{type(error).__name__}: {error}"
        return Answer([], None, "extract_failed", detail, "error")
