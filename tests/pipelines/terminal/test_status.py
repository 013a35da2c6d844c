"""How far a run is, told from its folder alone: by another process, and after a kill."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.terminal import status
from pipelines.terminal.status import Reached, Status
from shards import ledger, schema
from shards.storage import read_json, write_json
from tests.pipelines.background import captions_recipe, finish, held_server, mixwright
from tests.shards.stages import FINGERPRINT
from tests.shards.stages import finish as finish_stage

FOLDER = FINGERPRINT[:16]
STAGES = ["captions/read", "captions/filters", "pack", "shards"]


def write_part(folder: Path, part: int, read: int, kept: int, failed: int = 0) -> None:
    row = dict.fromkeys(schema.DROP.names) | {"id": "x", "unit": "document"}
    rows = [row | {"reason": "unreadable", "kind": "error"}] * failed
    rows += [row | {"reason": "too_short", "kind": "dropped"}] * (read - kept - failed)
    drops = ledger.pa.Table.from_pylist(rows, schema=schema.DROP)
    counts = {"read": {"document": read}, "kept": {"document": kept}}
    ledger.write_part(folder, part, None, drops, **counts)


@pytest.fixture
def begun(tmp_path: Path) -> Status:
    return status.begin(tmp_path, STAGES, "local", {"recipe": "x"})


def told(run: Path) -> dict[str, str]:
    """The line of each stage, and of the whole run as "run"."""
    head, *lines = status.lines(run)
    return {"run": head} | {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def test_what_a_run_is_stands_in_its_folder(tmp_path: Path, begun: Status):
    assert read_json(tmp_path / "run.json") == {"recipe": "x", "engine": "local", "stages": STAGES}
    assert status.read_status(tmp_path) == begun
    assert (begun.state, begun.pid, begun.wave) == ("running", os.getpid(), {})


def test_before_the_first_stage_all_wait(tmp_path: Path, begun: Status):
    said = told(tmp_path)
    assert said.pop("run") == f"running after 0 s (local, process {os.getpid()} on {begun.host})"
    assert said == dict.fromkeys(STAGES, "waiting")


def test_a_stage_is_done_under_way_or_waiting(tmp_path: Path, begun: Status):
    write_part(tmp_path / "captions/read" / FOLDER, 0, 1200, 1100)
    finish_stage(tmp_path, "captions/read")
    write_json(tmp_path / "run.json", {"stages": STAGES})
    write_part(tmp_path / "captions/filters/5d0c", 1, 1000, 700, failed=2)
    status.tell(tmp_path, replace(begun, wave={"captions/filters": ("5d0c", 3), "pack": ("e", 4)}))
    said = told(tmp_path)
    assert said["captions/read"] == "done, 1,200 → 1,100 documents in 1.5 core s"
    assert said["captions/filters"] == "1 of 3 parts, 1,000 → 700 documents, 2 failed"
    assert (said["pack"], said["shards"]) == ("waiting", "waiting")


def test_a_stage_that_is_made_again_is_as_far_as_its_new_folder(tmp_path: Path, begun: Status):
    write_part(tmp_path / "captions/read" / FOLDER, 0, 1200, 1100)
    finish_stage(tmp_path, "captions/read")
    write_part(tmp_path / "captions/read/new", 0, 10, 10)
    status.tell(tmp_path, replace(begun, wave={"captions/read": ("new", 2)}))
    assert told(tmp_path)["captions/read"] == "1 of 2 parts, 10 → 10 documents"


def test_a_download_is_told_in_urls_until_its_first_part_is_there(tmp_path: Path, begun: Status):
    home = tmp_path / "captions/read/new"
    (home / "fetching").mkdir(parents=True)
    (home / "fetching/host-00000").write_text("20 1000")
    (home / "fetching/host-00001").write_text("5 5")
    status.tell(tmp_path, replace(begun, wave={"captions/read": ("new", 2)}))
    assert told(tmp_path)["captions/read"] == "25 of 1,005 URLs"
    write_part(home, 1, 10, 9)
    assert told(tmp_path)["captions/read"] == "1 of 2 parts, 10 → 9 documents"


def test_shards_count_sequences(tmp_path: Path, begun: Status):
    ledger.write_part(
        tmp_path / "shards/new",
        0,
        None,
        schema.DROP.empty_table(),
        read={"sequence": 7},
        kept={"sequence": 7},
    )
    status.tell(tmp_path, replace(begun, wave={"shards": ("new", 2)}))
    assert told(tmp_path)["shards"] == "1 of 2 parts, 7 → 7 sequences"


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_run_that_ended_keeps_the_stages_that_it_was_at(
    tmp_path: Path, begun: Status, state: status.State
):
    write_part(tmp_path / "captions/read/new", 0, 10, 9)
    status.tell(tmp_path, replace(begun, wave={"captions/read": ("new", 2)}))
    status.end(tmp_path, state)
    said = told(tmp_path)
    assert said["run"].startswith(f"{state} after ")
    assert said["captions/read"] == "1 of 2 parts, 10 → 9 documents"


def test_a_run_that_is_not_heard_of_is_taken_for_dead(
    tmp_path: Path, begun: Status, monkeypatch: pytest.MonkeyPatch
):
    now = begun.updated + status.SILENT_SECONDS
    monkeypatch.setattr(time, "time", lambda: now - 1)
    assert not begun.silent
    monkeypatch.setattr(time, "time", lambda: now + 1)
    assert begun.silent
    assert not replace(begun, state="done").silent
    assert told(tmp_path)["run"].startswith("no sign of life for 61 s (local, process ")
    assert told(tmp_path)["run"].endswith("; the same command goes on from there")


def test_there_is_no_status_of_what_is_no_run(tmp_path: Path):
    assert status.read_status(tmp_path) is None
    with pytest.raises(FileNotFoundError, match=r"run.json"):
        next(status.lines(tmp_path))


def test_a_run_whose_status_was_never_written_has_its_stages(tmp_path: Path):
    """As a copy of a run has that left out what is only of use while it runs."""
    write_json(tmp_path / "run.json", {"stages": ["pack"]})
    assert list(status.lines(tmp_path)) == [f"{'pack':<28} waiting"]


def test_each_count_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[str] = []

    def reading(place: Path) -> Any:
        opened.append(place.name)
        return read_json(place)

    monkeypatch.setattr(status, "read_json", reading)
    reached = Reached(tmp_path, 3)
    looks = []
    for part in range(3):
        write_part(tmp_path, part, 10 + part, 9)
        for _ in range(2):
            reached.look()
        looks.append((reached.done, *reached.records()))
    assert opened == [f"part-0000{part}.json" for part in range(3)]
    assert looks == [
        (1, "document", 10, 9, 0),
        (2, "document", 21, 18, 0),
        (3, "document", 33, 27, 0),
    ]


def test_a_stage_with_all_its_parts_is_not_listed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_part(tmp_path, 0, 1, 1)
    reached = Reached(tmp_path, 1)
    reached.look()
    monkeypatch.setattr(ledger, "parts_done", lambda folder: pytest.fail("listed"))
    reached.look()
    assert reached.records() == ("document", 1, 1, 0)


# From another terminal


def stages(said: str) -> dict[str, str]:
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in said.splitlines()[1:]}


def test_another_process_sees_a_run_under_way_killed_and_done(tmp_path: Path):
    def ask() -> str:
        code, out, err = finish(mixwright("status", tmp_path / "run"))
        assert (code, err) == (0, "")
        return out

    with held_server() as server:
        command = ("run", captions_recipe(tmp_path, server), "--only", "captions/download")
        submitted = mixwright(*command)
        assert server.asked.wait(60), "the download never began"
        under_way = ask()
        os.killpg(submitted.pid, signal.SIGKILL)
        finish(submitted)
        killed = ask()
        last = read_json(tmp_path / "run" / "status.json")
        write_json(tmp_path / "run" / "status.json", last | {"updated": last["updated"] - 100})
        silent = ask()
        server.release.set()
        assert finish(mixwright(*command))[0] == 0
        done = ask()

    assert under_way.startswith("running after ")
    waiting = ("download", "filter_images", "dedupe", "clip", "filter_images-2")
    found = stages(under_way)
    assert found == {
        "captions/read": "3 of 3 parts, 5 → 5 documents",
        "captions/filter": "3 of 3 parts, 5 → 5 documents",
        **dict.fromkeys([*(f"captions/{name}" for name in waiting), "pack", "shards"], "waiting"),
    }
    # Nothing tells a killed run from one at work but that it is silent.
    assert killed.startswith("running after ")
    assert silent.startswith("no sign of life for 1")
    assert stages(killed) == stages(silent) == found
    assert done.startswith("done after ")
    for name in ("read", "filter", "download"):
        line = stages(done)[f"captions/{name}"]
        assert line.startswith("done, 5 → 5 documents in "), name
    assert stages(done)["pack"] == "waiting"
