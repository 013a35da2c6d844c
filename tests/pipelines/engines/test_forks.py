"""The process that workers are forked from: what they find loaded, and where they speak."""

import gc
import os
import sys
from multiprocessing import Pipe, forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

import pipelines.engines.local  # noqa: F401  Beam starts its workers by it
from pipelines.engines.forks import context, forks
from pipelines.loading import loading

WORKERS = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing"]


def _tell(connection: Connection, module: str) -> None:
    loaded = {"apache_beam", "pipelines.recipe", module} <= sys.modules.keys()
    connection.send((loaded, gc.isenabled(), gc.get_freeze_count()))


def test_a_fork_has_all_modules_and_looks_for_no_garbage_in_them() -> None:
    forkserver._forkserver._stop()  # of other tests, without the module
    ours, theirs = Pipe()
    with forks(["wave"]):
        assert forkserver._forkserver._forkserver_pid is not None
        process = context().Process(target=_tell, args=(theirs, "wave"))
        process.start()
        loaded, collects, frozen = ours.recv()
        process.join()
    assert forkserver._forkserver._forkserver_pid is None
    assert loaded and collects and frozen > 100_000


def _say(number: int) -> int:
    print(f"part {number} speaks", file=sys.stderr, flush=True)
    return number


def _speak(pipeline: Any) -> None:
    _ = pipeline | beam.Create([1, 2]) | beam.Reshuffle() | beam.Map(_say)


def test_what_workers_say_goes_where_the_command_has_it_go_by_then(tmp_path: Path) -> None:
    with forks(), (tmp_path / "said").open("wb") as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            with beam.Pipeline(options=PipelineOptions([*WORKERS, "--direct_num_workers=2"])) as p:
                _speak(p)
        finally:
            os.dup2(before, 2)
            os.close(before)
    said = (tmp_path / "said").read_text()
    assert "part 1 speaks" in said and "part 2 speaks" in said


def test_imports_are_not_interrupted_by_a_search_for_garbage() -> None:
    with loading():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled() and gc.get_freeze_count() >= len(made)
