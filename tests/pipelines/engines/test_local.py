"""The local engine outlives its worker processes, and says so when it cannot."""

import os
import signal
import threading
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import psutil
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import run
from pipelines.engines.local import DIED
from pipelines.stage import Place, Stage
from shards import ledger, schema

# Beam's threads do not expect what is done here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
PARTS = 6
WORKERS = ["--runner=FnApiRunner", "--direct_running_mode=multi_processing"]


def _die(parts: Any, place: Place, times: int) -> Any:
    return parts | beam.Reshuffle() | beam.Map(_die_at_part, place, times)


def _die_at_part(part: int, place: Place, times: int) -> int:
    deaths = place.run / "deaths"
    if part == 3 and len(list(deaths.iterdir())) < times:
        (deaths / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if not place.has(part):
        nothing, one = schema.DROP.empty_table(), {"document": 1}
        place.write(part, pa.table({"part": [part]}), nothing, read=one, kept=one)
    return part


def execute(folder: Path, times: int) -> None:
    """A run of which so many workers die; a file in `deaths` stands for each."""
    (folder / "deaths").mkdir()
    stage = Stage("mortal", partial(_die, times=times), None, (), parts=lambda _: PARTS)
    options = PipelineOptions([*WORKERS, "--direct_num_workers=2"])
    watch, done = (lambda _: nullcontext()), (lambda *_: None)
    run.execute(folder, run.plan(folder, [stage]), options, watch=watch, done=done)


def test_a_worker_that_dies_is_replaced_and_its_work_is_done(tmp_path: Path) -> None:
    execute(tmp_path, times=1)
    assert len(list((tmp_path / "deaths").iterdir())) == 1
    assert ledger.read_counts(ledger.current(tmp_path / "mortal")).kept == {"document": PARTS}


def test_work_that_kills_every_worker_fails_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=DIED):
        execute(tmp_path, times=99)
    assert len(list((tmp_path / "deaths").iterdir())) == run.ATTEMPTS
    assert ledger.about(tmp_path / "mortal") is None


def _grandchildren() -> set[psutil.Process]:
    """Among them the workers, children of the process that they are forked from."""
    return {each for child in psutil.Process().children() for each in child.children()}


def test_a_worker_that_dies_while_others_are_still_starting(tmp_path: Path) -> None:
    before = _grandchildren()  # of other tests

    def kill_first() -> None:
        while not (workers := _grandchildren() - before):
            time.sleep(0.01)
        workers.pop().kill()

    thread = threading.Thread(target=kill_first)
    thread.start()
    execute(tmp_path, times=0)
    thread.join()
    assert ledger.read_counts(ledger.current(tmp_path / "mortal")).kept == {"document": PARTS}
