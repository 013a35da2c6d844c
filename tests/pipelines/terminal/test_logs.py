"""The log of a run: lines of JSON, with what any process of it printed on standard error."""

import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.terminal.logs import LOG_FILE, logs_to
from shards.storage import Remote, read_bytes
from shards.stores.options import S3Options
from tests.pipelines.background import captions_recipe, finish, held_server, mixwright

LOG = logging.getLogger("mixwright")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG_FILE).read_text("utf-8").splitlines()]


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """Pytest's own handlers are back, and standard error is what it was."""
    handlers, error = logging.getLogger().handlers[:], os.fstat(2)
    yield
    assert logging.getLogger().handlers == handlers
    assert os.path.samestat(os.fstat(2), error)


def test_a_record_is_a_line_with_its_fields(tmp_path: Path):
    with logs_to(tmp_path):
        LOG.info("stage done: %s", "pack", extra={"stage": "pack", "counts": {"read": 3}})
        logging.getLogger("apache_beam").warning("größer\nals eine Zeile")
        logging.getLogger("apache_beam").info("not worth a line")
    done, warned = lines(tmp_path)
    time = done.pop("time")
    assert len(time) == len("2026-01-01T00:00:00")
    assert done == {
        "level": "info",
        "logger": "mixwright",
        "message": "stage done: pack",
        "stage": "pack",
        "counts": {"read": 3},
    }
    assert (warned["level"], warned["message"]) == ("warning", "größer\nals eine Zeile")


def test_a_field_that_json_does_not_know_is_written_as_text(tmp_path: Path):
    with logs_to(tmp_path):
        LOG.info("x", extra={"place": Path("a/b")})
    assert lines(tmp_path)[0]["place"] == "a/b"


def test_a_traceback_is_in_the_line(tmp_path: Path):
    with logs_to(tmp_path):
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            LOG.exception("failed")
    (line,) = lines(tmp_path)
    assert (line["level"], line["message"]) == ("error", "failed")
    assert line["traceback"].startswith("Traceback (most recent call last):")
    assert line["traceback"].endswith("ZeroDivisionError: division by zero")


def test_what_this_process_and_its_children_print_on_standard_error_is_in_it(tmp_path: Path):
    code = "import sys; print('not this'); print('a\\n\\nb', file=sys.stderr)"
    with logs_to(tmp_path):
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        os.write(2, b"from a library \xff\n")
    said = [(line["logger"], line["level"], line["message"]) for line in lines(tmp_path)]
    assert said == [
        ("stderr", "info", "a"),
        ("stderr", "info", "b"),
        ("stderr", "info", "from a library \ufffd"),
    ]


def test_lines_of_many_threads_stay_whole(tmp_path: Path):
    def log(number: int) -> None:
        for i in range(50):
            LOG.info("x" * 5000, extra={"thread_number": number, "i": i})

    with logs_to(tmp_path):
        threads = [threading.Thread(target=log, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = [(line["thread_number"], line["i"]) for line in lines(tmp_path)]
    assert sorted(found) == [(n, i) for n in range(4) for i in range(50)]


def test_a_run_that_goes_on_adds_to_its_log(tmp_path: Path):
    for message in ("first", "second"):
        with logs_to(tmp_path):
            LOG.info(message)
    assert [line["message"] for line in lines(tmp_path)] == ["first", "second"]


class Kept:
    """A store of nothing but what is put."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put_bytes(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def get(self, key: str) -> bytes:
        return self.objects[key]

    def size(self, key: str) -> int:
        if key not in self.objects:
            raise FileNotFoundError(key)
        return len(self.objects[key])


def test_the_log_of_a_run_in_a_store_is_copied_there_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = Kept()
    monkeypatch.setattr("shards.storage._open_store", lambda *_: store)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run = Remote("s3", "bucket", "runs/x", S3Options())
    with logs_to(run):
        LOG.info("begins")
        assert store.objects == {}
    with logs_to(run):
        LOG.info("goes on")
    said = [json.loads(line)["message"] for line in read_bytes(run / LOG_FILE).splitlines()]
    assert said == ["begins", "goes on"]
    assert store.objects.keys() == {"runs/x/run.log"}
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_standard_error_and_the_handlers_as_they_were(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), logs_to(tmp_path):
        _ = 1 / 0


def test_a_stage_that_fails_in_a_worker_leaves_its_traceback(tmp_path: Path):
    """In the log; the terminal shows the cause alone."""
    with held_server() as server:
        recipe = captions_recipe(tmp_path, server)
        model = tmp_path / "no-model.bin"
        model.write_bytes(b"no model")
        wrong = f"corpora.captions.steps=[quality: {{model: {model}}}, download]"
        arguments = ["run", recipe, "--only", "captions/quality", "--set", wrong]
        code, out, err = finish(mixwright(*arguments))
    assert (code, out) == (1, "")
    cause, hint = err.splitlines()
    assert "no-model.bin has wrong file format" in cause
    assert hint == f"  the whole story is in {tmp_path / 'run' / LOG_FILE}"
    said = lines(tmp_path / "run")
    assert [line["message"] for line in said if line["logger"] == "mixwright"] == [
        "begins",
        "job begins",
        "ended before it was done",
    ]
    assert "wrong file format" in said[-1]["traceback"]
    worker = [line["message"] for line in said if line["logger"] == "stderr"]
    assert any("classifiers.py" in message and "in classifier" in message for message in worker)
