"""Runs in a process of their own, on a web server that answers when the test lets it."""

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from PIL import Image

LIMIT = 120  # seconds, after which something hangs
STEPS = [
    {"filter": []},
    "download",
    {"filter_images": []},
    {"dedupe": {"exact": ["image"]}},
    "clip",
    {"filter_images": []},
]


class HeldServer(ThreadingHTTPServer):
    """Pictures for everybody, but not before `release` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked, self.release = threading.Event(), threading.Event()
        out = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(out, "PNG")
        self.picture = out.getvalue()

    def handle_error(self, *_: object) -> None:
        """Clients that are stopped in the middle of a request are what this is for."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: HeldServer

    def do_GET(self) -> None:
        if self.path == "/robots.txt":
            self.send_error(404)
            return
        self.server.asked.set()
        self.server.release.wait(LIMIT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.picture)))
        self.end_headers()
        self.wfile.write(self.server.picture)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def held_server() -> Iterator[HeldServer]:
    with HeldServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join()


def captions_recipe(folder: Path, server: HeldServer) -> Path:
    """Five captions in three parts, with one worker; the run's folder is `folder / "run"`."""
    rows = [f"http://a.example/{i}.png\tA cat on mat number {i}." for i in range(5)]
    (folder / "urls.tsv").write_text("url\tcaption\n" + "\n".join(rows) + "\n")
    read = {"files": [str(folder / "urls.tsv")], "rows_per_part": 2}
    tree = {
        "name": "held",
        "out": str(folder / "run"),
        "corpora": {"captions": {"read": read, "steps": STEPS}},
        "download": {"connect_to": {"*.example": server.address}, "total_seconds": LIMIT},
        "mix": {"weights": {"captions": 1}},
        "runner": {"workers": 1},
    }
    path = folder / "held.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def mixwright(*arguments: object) -> "subprocess.Popen[str]":
    """A command that has begun, as a leader of its own process group."""
    command = [sys.executable, "-m", "pipelines.cli", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Its exit code, and what it said on standard output and standard error."""
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out, err
