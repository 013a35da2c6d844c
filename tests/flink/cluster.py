"""Flink within Beam's job server for it, on loopback: one JVM that starts Flink anew for each job.

`python tests/flink/cluster.py` starts one and tells how to run on it; tests use `cluster()`.
Every port is one that the system chose, so several can run side by side.
"""

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # this file is run by its path, too

from tests.jvm import SHORT_LIVED, assemble, logged, serve, terminable  # noqa: E402

POM = Path(__file__).with_name("pom.xml")
# Flink runs all steps of a job at once, and every shuffle between them holds network buffers: the
# 64 MB that Flink has by default are too few for a wave of stages. By default, too, a job fails
# with its first task.
SETTINGS = """\
parallelism.default: 2
taskmanager.memory.network.min: 256m
taskmanager.memory.network.max: 256m
restart-strategy.type: fixed-delay
restart-strategy.fixed-delay.attempts: 10
restart-strategy.fixed-delay.delay: 1s
"""


@dataclass(frozen=True)
class Cluster:
    """What is running."""

    job_endpoint: str  # for Beam's --job_endpoint
    job_server: int  # id of the process
    logs: Path


@contextmanager
def cluster(folder: Path, settings: str = SETTINGS) -> Iterator[Cluster]:
    """A job server that runs jobs on a Flink of two slots, until the block is left.

    `folder` takes the log and what Flink spills, `settings` are the lines of Flink's config.yaml.
    On leaving, by an exception or SIGTERM too, the process ends.

    Raises RuntimeError, with the end of the log, if it does not come up.
    """
    (folder / "conf").mkdir(parents=True)
    (folder / "conf" / "config.yaml").write_text(settings)
    command = _job_server(assemble("flink", POM), folder)
    with terminable(), serve("job-server", command, folder, {}) as server:
        endpoint = logged(server, r"JobService started on (\S+)")
        yield Cluster(endpoint, server.process.pid, folder)


def _job_server(jars: Path, folder: Path) -> list[str]:
    small = ["-Xmx1g", *SHORT_LIVED, f"-Djava.io.tmpdir={folder}"]
    main = ["-cp", f"{jars}/*", "org.apache.beam.runners.flink.FlinkJobServerDriver"]
    flink = ["--flink-master=[local]", f"--flink-conf-dir={folder / 'conf'}"]
    ports = ["--job-port=0", "--artifact-port=0", "--expansion-port=0"]
    return ["java", *small, *main, *flink, *ports, f"--artifacts-dir={folder}"]


def main() -> None:
    """Keeps a job server up until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="mixwright-flink-") as folder:
        print(f"jars: {assemble('flink', POM)}", flush=True)
        with suppress(KeyboardInterrupt), cluster(Path(folder)) as flink:
            print(f"job server: {flink.job_endpoint}, log in {flink.logs}; ends with Ctrl-C. Run:")
            option = f"--set runner.flink.job_endpoint={flink.job_endpoint}"
            loopback = "--set runner.flink.environment=loopback"
            print(f"  mixwright demo --no-train --set runner.engine=flink {option} {loopback}")
            sys.stdout.flush()
            signal.pause()


if __name__ == "__main__":
    main()
