import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import psutil
import pytest

from pipelines.reading import guard
from pipelines.reading.extract import read_page
from pipelines.reading.guard import Task, read_pages

URL = "http://site.example/a"
SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "www"

# Small files that are slow or large to parse.
TIME_BOMB = b"<div " + b" ".join(b"a%d=1" % number for number in range(300_000)) + b">x"
MEMORY_BOMB = "".join(f"<font a={number}><p>" for number in range(8000)).encode()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """A child of each test's own."""
    end_child()
    yield
    end_child()


def end_child() -> None:
    if guard._child.cache_info().currsize:
        guard._child(os.getpid()).stop()
    guard._child.cache_clear()


def child_id() -> int:
    return guard._child(os.getpid())._process.pid


def tasks(*bodies: bytes, reader: str = "mixwright") -> list[Task]:
    return [(body, URL, None, reader) for body in bodies]


def texts(answers: list[guard.Answer]) -> list[str]:
    """Texts, and the reasons of pages without one."""
    return [a.reason or " ".join(part["text"] for part in a.parts) for a in answers]


def sample_pages() -> list[bytes]:
    return [path.read_bytes() for path in sorted(SAMPLE.rglob("*.html"))[::20]]


@pytest.mark.parametrize("reader", ["interleaved", "mixwright", "resiliparse"])
def test_pages_are_read_as_in_this_process(reader):
    pages = tasks(*sample_pages(), reader=reader)
    answers = read_pages(pages, 5)
    assert [(a.parts, a.licence) for a in answers] == [read_page(*page) for page in pages]
    assert {a.reason for a in answers} == {None}


@pytest.mark.parametrize("reader", ["interleaved", "mixwright", "resiliparse"])
@pytest.mark.parametrize(
    ("bomb", "seconds", "reason"),
    [
        (TIME_BOMB, 0.2, "page_timeout"),
        (MEMORY_BOMB, 60, "page_too_large_in_memory"),
        (b"<i>" * 600 + b"x", 60, "page_too_complex"),
    ],
)
def test_a_pathological_page_costs_only_itself(reader, bomb, seconds, reason):
    pages = tasks(b"<p>One.", b"<p>Two.", bomb, b"<p>Three.", reader=reader)
    answers = read_pages(pages, seconds)
    assert texts(answers) == ["One.", "Two.", reason, "Three."]
    assert answers[2].kind == "dropped"


def test_a_child_that_somebody_kills_changes_nothing():
    pages = tasks(*sample_pages())
    before = read_pages(pages, 5)
    os.kill(child_id(), signal.SIGKILL)
    assert read_pages(pages, 5) == before
    stop = Thread(target=lambda: (time.sleep(0.02), os.kill(child_id(), signal.SIGKILL)))
    stop.start()
    assert read_pages(pages, 5) == before
    stop.join()


def test_answers_that_nobody_waited_for_are_not_taken_for_others(monkeypatch):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    read_pages(tasks(b"<p>first"), 5)
    with monkeypatch.context() as patch:
        patch.setattr(guard, "_receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            read_pages(tasks(b"<p>interrupted"), 5)
    assert texts(read_pages(tasks(b"<p>next"), 5)) == ["next"]


# In the child, in the place of the parser: pages that do what no page should be able to do.
HOSTILE = """
import os, signal, sys, json, time
sys.path[:] = json.loads(sys.argv[1])
from pipelines.reading import extract, guard

def read_page(html, url, charset, reader):
    if html == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if html == b"hang":
        time.sleep(3600)
    if html == b"raise":
        raise RuntimeError("lost")
    if html == b"exit":
        sys.exit(1)
    print("a library prints this")
    return [{"text": html.decode()}], None

extract.read_page = read_page
guard.serve(int(sys.argv[2]))
"""


def test_crashes_and_exceptions_are_counted_errors(monkeypatch):
    monkeypatch.setattr(guard, "START", HOSTILE)
    answers = read_pages(tasks(b"a", b"raise", b"b", b"crash", b"crash", b"exit", b"c"), 5)
    assert texts(answers) == ["a", "extract_failed", "b", *["extract_failed"] * 3, "c"]
    assert [answers[n].detail for n in (1, 3, 5)] == [
        "RuntimeError: lost",
        "the parser ended with SIGSEGV",
        "the parser ended with status 1",
    ]
    assert {a.kind for a in answers if a.reason} == {"error"}


def test_a_page_that_hangs_without_working_is_ended_too(monkeypatch):
    monkeypatch.setattr(guard, "START", HOSTILE)
    monkeypatch.setattr(guard, "HANGS", 1)
    assert texts(read_pages(tasks(b"a", b"hang", b"b"), 0.2)) == ["a", "page_timeout", "b"]


def test_what_cannot_start_is_no_fault_of_the_pages(monkeypatch):
    monkeypatch.setattr(guard, "START", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="ended with 3"):
        read_pages(tasks(b"a"), 5)


def test_threads_share_one_child_and_no_zombie_is_left():
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        pages = tasks(b"<p>%d" % number, TIME_BOMB, b"<p>%d again" % number)
        found[number] = texts(read_pages(pages, 0.1))

    threads = [Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [f"{n}", "page_timeout", f"{n} again"] for n in range(3)}
    children = psutil.Process().children()
    parsers = [c for c in children if c.pid == child_id()]
    assert len(parsers) == 1
    assert all(c.status() != psutil.STATUS_ZOMBIE for c in children)


def test_the_child_leaves_with_its_parent():
    code = (
        "import os, signal\nfrom pipelines.reading import guard\n"
        "guard.read_pages([(b'x', None, None, 'mixwright')], 5)\n"
        "print(guard._child(os.getpid())._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).parents[3]
    parent = subprocess.run([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE)
    assert parent.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int(parent.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(parent.stdout))
