"""A standalone Spark cluster and Beam's job server for it, on loopback.

`python tests/spark/cluster.py` starts one and tells how to run on it; tests use `cluster()`.
Every port is one that the system chose, so several clusters can run side by side.
"""

import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is run by its path, too

from tests.jvm import (  # noqa: E402
    SHORT_LIVED,
    Server,
    assemble,
    logged,
    missing_tools,
    serve,
    terminable,
    worker_pool,
)

__all__ = ["ADD_OPENS", "Cluster", "cluster", "jars", "missing_tools", "serve", "worker_pool"]

POM = Path(__file__).with_name("pom.xml")
# What Spark reaches into and Java 17 keeps closed.
OPENED = (
    *(f"java.base/java.{name}" for name in ("lang", "lang.invoke", "io", "net", "nio", "util")),
    *(f"java.base/java.util.concurrent{name}" for name in ("", ".atomic")),
    *(f"java.base/sun.{name}" for name in ("nio.ch", "nio.cs", "security.action", "util.calendar")),
)
ADD_OPENS = tuple(f"--add-opens={package}=ALL-UNNAMED" for package in OPENED)
# Beam's Python workers outlive a stage with --environment_cache_millis, and one that died stays in
# its executor's cache: a task tried there again fails again. So let it be tried elsewhere, and let
# the executor go after the stage. (Without a cache none of this is needed.) All nodes are one host
# here, of which Spark would otherwise think badly too soon.
TRY_ELSEWHERE = {
    "spark.task.maxFailures": "10",
    "spark.excludeOnFailure.enabled": "true",
    "spark.excludeOnFailure.killExcludedExecutors": "true",
    "spark.excludeOnFailure.stage.maxFailedTasksPerExecutor": "1",
    "spark.excludeOnFailure.application.maxFailedTasksPerExecutor": "1",
    "spark.excludeOnFailure.task.maxTaskAttemptsPerNode": "9",
    "spark.excludeOnFailure.stage.maxFailedExecutorsPerNode": "100",
    "spark.excludeOnFailure.application.maxFailedExecutorsPerNode": "100",
}
# Ports are read from the log, so Beam's job server has to log as Spark's own processes do.
LOGGING = "-Dlog4j2.configurationFile=classpath:org/apache/spark/log4j2-defaults.properties"


@dataclass(frozen=True)
class Cluster:
    """What is running: process ids, endpoints and logs."""

    job_endpoint: str  # for Beam's --job_endpoint
    files_to_stage: str  # for Beam's --files_to_stage: executors have all 300 MB of jars already
    master_url: str  # for Beam's --spark_master_url
    job_server: int
    master: int
    workers: tuple[int, ...]
    logs: Path  # of every process; executors' are below work-N/

    def executors(self) -> list[int]:
        """Ids of the JVMs that run tasks at this moment; there are none between jobs."""
        children = [child for pid in self.workers for child in _children(pid)]
        return sorted(pid for pid, line in children if "CoarseGrainedExecutorBackend" in line)


def jars() -> Path:
    """The folder of Spark's and Beam's jars; see `assemble`."""
    found = assemble("spark", POM)
    (found.parent / "RELEASE").touch()  # the mark of a Spark that is installed, not built in place
    return found


@contextmanager
def cluster(
    folder: Path,
    workers: int = 2,
    executor_memory: str = "512m",
    settings: Mapping[str, str] = TRY_ELSEWHERE,
) -> Iterator[Cluster]:
    """A master, `workers` Spark workers of one core and a job server, until the block is left.

    `folder` takes logs and shuffle files, `settings` are Spark properties of every job. The job
    server runs one job at a time and fails a second one. On leaving, by an exception or SIGTERM
    too, all processes end.

    Raises RuntimeError, with the end of the log, if one of them does not come up.
    """
    spark = _Spark(jars(), folder, executor_memory)
    with terminable(), ExitStack() as stack:

        def start(name: str, command: Sequence[str], ready: str) -> tuple[Server, str]:
            server = stack.enter_context(serve(name, command, folder, spark.environment()))
            return server, logged(server, ready)

        master, url = start("master", spark.master(), r"Starting Spark master at (\S+)")
        registered = f"Successfully registered with master ({re.escape(url)})"
        nodes = [
            start(f"worker-{n}", spark.worker(url, n), registered)[0] for n in range(1, workers + 1)
        ]
        beam, endpoint = start(
            "job-server", spark.job_server(url, settings), r"JobService started on (\S+)"
        )
        pids = tuple(node.process.pid for node in nodes)
        staged = str(spark.jars.parent / "RELEASE")
        yield Cluster(endpoint, staged, url, beam.process.pid, master.process.pid, pids, folder)


@dataclass(frozen=True)
class _Spark:
    """The command lines."""

    jars: Path
    folder: Path
    executor_memory: str

    def environment(self) -> dict[str, str]:
        return {
            "SPARK_HOME": str(self.jars.parent),
            "SPARK_SCALA_VERSION": "2.12",
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_LOCAL_DIRS": str(self.folder / "shuffle"),
        }

    def master(self) -> list[str]:
        main = "org.apache.spark.deploy.master.Master"
        return self._java("128m", main, ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"])

    def worker(self, master: str, number: int) -> list[str]:
        main = "org.apache.spark.deploy.worker.Worker"
        options = f"--host 127.0.0.1 --port 0 --webui-port 0 -c 1 -m {self.executor_memory}"
        work = ["-d", str(self.folder / f"work-{number}")]
        return self._java("128m", main, [master, *options.split(), *work])

    def job_server(self, master: str, settings: Mapping[str, str]) -> list[str]:
        main = "org.apache.beam.runners.spark.SparkJobServerDriver"
        ports = ["--job-port", "0", "--artifact-port", "0", "--expansion-port", "0"]
        properties = {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.executor.memory": self.executor_memory,
            "spark.executor.extraJavaOptions": " ".join([*SHORT_LIVED, *ADD_OPENS]),
            "spark.ui.enabled": "false",
            **settings,
        }
        options = [*ports, "--spark-master-url", master, "--artifacts-dir", str(self.folder)]
        return self._java("512m", main, options, properties)

    def _java(
        self,
        heap: str,
        main: str,
        options: Sequence[str],
        properties: Mapping[str, str] = MappingProxyType({}),
    ) -> list[str]:
        given = [f"-D{name}={value}" for name, value in properties.items()]
        machine = [f"-Xmx{heap}", *SHORT_LIVED, *ADD_OPENS, LOGGING, *given]
        return ["java", *machine, "-cp", f"{self.jars}/*", main, *options]


def _children(pid: int) -> list[tuple[int, str]]:
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with suppress(psutil.NoSuchProcess):
                found.append((child.pid, " ".join(child.cmdline())))
    return found


def main() -> None:
    """Keeps a cluster up until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="mixwright-spark-") as folder:
        print(f"jars: {jars()}", flush=True)
        with suppress(KeyboardInterrupt), cluster(Path(folder)) as spark:
            print(f"job server: {spark.job_endpoint}, logs: {spark.logs}; ends with Ctrl-C. Run:")
            settings = (
                "engine=spark",
                f"spark.job_endpoint={spark.job_endpoint}",
                "spark.environment=loopback",
                f"options.files_to_stage={spark.files_to_stage}",
            )
            options = " ".join(f"--set runner.{setting}" for setting in settings)
            print(f"  mixwright demo --no-train {options}", flush=True)
            signal.pause()


if __name__ == "__main__":
    main()
