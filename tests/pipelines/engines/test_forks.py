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

WORKERS = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing"]


def _tell(connection: Connection) -> None:
    loaded = {"apache_beam", "pipelines.recipe", "albumentations"} <= sys.modules.keys()
    connection.send((loaded, gc.isenabled(), gc.get_freeze_count()))


def test_a_fork_has_all_modules_and_looks_for_no_garbage_in_them() -> None:
    ours, theirs = Pipe()
    with forks():
        assert forkserver._forkserver._forkserver_pid is not None
        process = context().Process(target=_tell, args=(theirs,))
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
