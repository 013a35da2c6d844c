"""A small web on loopback: virtual hosts, their files, and the misbehaviour real servers show.

    python -m pipelines.fetching.site ROOT --port 0

ROOT holds `www/HOST/...`, the files of each host, and `site.yaml`, what the server does besides
handing them out: a map from `host/path` to a rule with any of

- `status`: this status instead of 200 (with an empty body where there is no file),
- `location`: the target of a redirect,
- `headers`: more headers,
- `type`: this Content-Type instead of the one the file name means,
- `delay`: seconds to wait before answering,
- `truncate`: close the connection after this many bytes of the body.

Answers depend on ROOT alone (the `Date` is fixed, there is no `Last-Modified`), so that a crawl
can be repeated to the byte. The server ends when its standard input does.
"""

import argparse
import hashlib
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

DATE = "Mon, 01 Jan 2024 00:00:00 GMT"
# Not the `mimetypes` module: it reads tables that differ from machine to machine.
TYPES = {
    ".css": "text/css",
    ".gif": "image/gif",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webp": "image/webp",
}


@dataclass(frozen=True)
class Site:
    """Where a served site listens."""

    host: str
    port: int

    @property
    def address(self) -> str:
        """`host:port`, the form a connect-to map takes."""
        return f"{self.host}:{self.port}"


@contextmanager
def serve(root: Path, port: int = 0) -> Iterator[Site]:
    """Serves `root` until the block ends; port 0 takes a free one.

    The server is a process of its own: in a thread it would share the interpreter lock with its
    client, and timings would be of both. Raises RuntimeError if it does not start.
    """
    command = [
        sys.executable,
        "-m",
        "pipelines.fetching.site",
        str(root.resolve()),
        "--port",
        str(port),
    ]
    package = Path(__file__).resolve().parents[2]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=package) as server:  # noqa: S603
        assert server.stdin and server.stdout
        line = server.stdout.readline()
        if not line:
            raise RuntimeError(f"the server of {root} did not start")
        try:
            yield Site("127.0.0.1", int(line))
        finally:
            server.terminate()  # closing its input is not enough once the caller has forked


@dataclass(frozen=True)
class Rule:
    """What the server does at one path; the module's docstring explains each."""

    status: int = 200
    location: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    type: str = ""
    delay: float = 0.0
    truncate: int | None = None


@dataclass(frozen=True)
class Content:
    """What a server hands out: the folders of its hosts, and the rules by `host/path`."""

    hosts: Mapping[str, Path]
    rules: Mapping[str, Rule]


def read_content(root: Path) -> Content:
    """Raises TypeError if `site.yaml` has a rule with a field that there is not."""
    hosts = {folder.name: folder.resolve() for folder in (root / "www").iterdir()}
    listed: dict[str, Any] = yaml.safe_load((root / "site.yaml").read_text()) or {}
    return Content(hosts, {path: Rule(**fields) for path, fields in listed.items()})


def find_file(folder: Path, path: str) -> Path | None:
    """The file a URL path names; None if there is none, or if it would be outside `folder`."""
    if "\0" in path:
        return None
    file = (folder / path.lstrip("/")).resolve()
    if path.endswith("/"):
        file /= "index.html"
    return file if file.is_relative_to(folder) and file.is_file() else None


class Handler(BaseHTTPRequestHandler):
    """Answers from a `Content`; what it does not have is 404."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and small body leave in one packet
    disable_nagle_algorithm = True  # else a large body waits for the client's delayed ACK

    def __init__(self, content: Content, *connection: Any) -> None:
        self.content = content
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Answers by the host, the path and its rule; the query is ignored."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0].lower()
        path = unquote(urlsplit(self.path).path)
        rule = self.content.rules.get(host + path, Rule())
        folder = self.content.hosts.get(host)
        file = find_file(folder, path) if folder else None
        time.sleep(rule.delay)
        self.answer(rule, file)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, rule: Rule, file: Path | None) -> None:
        """Sends the file as the rule says."""
        missing = file is None and rule.status == HTTPStatus.OK
        body = file.read_bytes() if file else b""
        kind = TYPES.get(file.suffix, "application/octet-stream") if file else "text/plain"
        self.send_response(HTTPStatus.NOT_FOUND if missing else rule.status)
        self.send_header("Content-Type", rule.type or kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()[:16]}"')
        if rule.location:
            self.send_header("Location", rule.location)
        for name, value in rule.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.send_body(body, rule.truncate)

    def send_body(self, body: bytes, truncate: int | None) -> None:
        """Sends the body, or its beginning only."""
        if truncate is not None:
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(body[:truncate])

    def version_string(self) -> str:
        """A name that does not change with the interpreter."""
        return "mixwright-sample"

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The fixed date."""
        return DATE

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Says nothing: what is worth a line is an error."""


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    request_queue_size = 128

    def server_bind(self) -> None:
        """Binds without the reverse DNS query that HTTPServer would make."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error of the server's."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def end_with_stdin() -> None:
    """Ends the process at the end of its input, which is when its parent has gone."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


def main() -> None:
    """Serves until standard input ends; the port is the first line of the output."""
    parser = argparse.ArgumentParser(description="Serves a folder as a small web on loopback.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    # Ctrl-C is for the client: the server ends when the client does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handler = partial(Handler, read_content(options.root))
    with Server(("127.0.0.1", options.port), handler) as server:
        print(server.server_port, flush=True)
        threading.Thread(target=end_with_stdin, daemon=True).start()
        server.serve_forever()


if __name__ == "__main__":
    main()
