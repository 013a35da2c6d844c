"""What an engine's cluster consists of: jars by Maven, servers, Beam's worker pool."""

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from tests.tools import lacking

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("java", "mvn")
# Of JVMs that live for minutes: the second compiler takes more of a processor than it gives back.
SHORT_LIVED = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


@dataclass(frozen=True)
class Server:
    """A process at the head of its own group, and where it logs."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def missing_tools() -> list[str]:
    """Which of Java and Maven are not on PATH."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def require_java() -> None:
    """Skip the test without Java and Maven, or fail it where tools are required."""
    if missing := missing_tools():
        lacking(f"not on PATH: {', '.join(missing)}: apt-get install default-jre-headless maven")


def assemble(name: str, pom: Path) -> Path:
    """The folder of the jars that `pom` lists; the first call has Maven fetch them, in minutes.

    It lies in $MIXWRIGHT_CACHE (~/.cache/mixwright), one for each content of the pom, and is there
    as a whole or not at all.
    """
    cache = Path(os.environ.get("MIXWRIGHT_CACHE") or Path.home() / ".cache" / "mixwright")
    home = cache / f"{name}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    cache.mkdir(parents=True, exist_ok=True)
    # Maven's own repository does not stand two downloads at a time.
    with (cache / "maven.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            _fetch(home, pom)
    return home / "jars"


def _fetch(home: Path, pom: Path) -> None:
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=f"{home.name}.") as partial:
        folder = Path(partial) / "home"
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder / 'jars'}"]
        done = subprocess.run(["mvn", "-B", "-f", pom, *goal], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"mvn {goal[0]} failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        folder.rename(home)


@contextmanager
def worker_pool(folder: Path) -> Iterator[str]:
    """Beam's pool of external Python workers; the address is the --environment_config to give.

    `folder` takes its log, and what the workers write there.
    """
    main = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main"]
    worker = Path(sys.executable).parent / "mixwright-worker"
    command = [*main, "--service_port", "0", "--container_executable", str(worker)]
    with terminable(), serve("worker-pool", command, folder, {}) as server:
        yield f"localhost:{_wait(server, lambda: _listening(server.process.pid))}"


@contextmanager
def serve(
    name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[Server]:
    """A process that ends, with all that it started, when the block is left."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(name, process, log)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(3)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def logged(server: Server, pattern: str) -> str:
    """What the group of `pattern` matches in the log, once it is there.

    Raises RuntimeError, with the end of the log, if the process ends before, or waits too long.
    """

    def look() -> str | None:
        found = re.search(pattern, server.log.read_text(errors="replace"))
        return found and found[1]

    return _wait(server, look)


def _wait(server: Server, look: Callable[[], str | None], seconds: float = 180) -> str:
    """What `look` finds, as soon as it finds something."""
    until = time.monotonic() + seconds
    while (found := look()) is None:
        if server.process.poll() is not None:
            raise RuntimeError(_failure(server, f"ended with {server.process.returncode}"))
        if time.monotonic() > until:
            raise RuntimeError(_failure(server, f"is not ready after {seconds:.0f} s"))
        time.sleep(0.1)
    return found


def _failure(server: Server, what: str) -> str:
    lines = server.log.read_text(errors="replace").splitlines()[-20:]
    return "\n".join([f"{server.name} {what}; the end of {server.log}:", *lines])


def _listening(pid: int) -> str | None:
    with suppress(psutil.NoSuchProcess):
        for socket in psutil.Process(pid).net_connections("tcp"):
            if socket.status == psutil.CONN_LISTEN:
                return str(socket.laddr.port)
    return None


@contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM unwind the stack, as Ctrl-C does; only the main thread can do so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
