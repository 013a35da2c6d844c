"""A web server on loopback that misbehaves in every way it is asked to, for the downloader."""

import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    web: "Web"

    def do_GET(self) -> None:
        host = self.headers["Host"].split(":")[0]
        self.web.saw(host, self.path, dict(self.headers))
        self.web.connections.add(self.client_address[1])
        self.web.answers.get(self.path, respond(404))(self)

    def log_message(self, *args: Any) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *args: Any) -> None:
        """A client that hangs up is what many of these tests are about."""


@dataclass
class Web:
    """What the server answers by path, and what it saw."""

    port: int = 0
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    connections: set[int] = field(default_factory=set)  # the client's ports
    sent: int = 0
    busy: Counter[str] = field(default_factory=Counter)
    busiest: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def saw(self, host: str, path: str, headers: dict[str, str]) -> None:
        with self.lock:
            self.asked.append((host, path))
            self.headers.append(headers)
            self.times.append(time.monotonic())

    def paths(self) -> list[str]:
        return [path for _, path in self.asked]


def respond(
    status: int = 200,
    body: bytes = b"",
    *headers: tuple[str, str],
    length: int | None = None,
    wait: float = 0,
) -> Answer:
    def answer(handler: Handler) -> None:
        time.sleep(wait)
        handler.send_response(status)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body) if length is None else length))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = length is not None

    return answer


def counted(handler: Handler) -> None:
    """Notes how many requests are under way together, by host and ("") in all."""
    web, host = handler.web, handler.headers["Host"]
    for change in (1, -1):
        with web.lock:
            for key in (host, ""):
                web.busy[key] += change
                web.busiest[key] = max(web.busiest[key], web.busy[key])
        time.sleep(0.02 if change > 0 else 0)
    respond(200, b"a")(handler)


def redirect(location: str, status: int = 302) -> Answer:
    return respond(status, b"", ("Location", location))


def one_after_another(*answers: Answer) -> Answer:
    """The first answer to the first request, ...; the last one to all that follow."""
    left = list(answers)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


def stream(total: int, *headers: tuple[str, str], chunk: int = 65536, pause: float = 0) -> Answer:
    """`total` bytes without a length, and a count of those the client took."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        for name, value in headers:
            handler.send_header(name, value)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for _ in range(0, total, chunk):
            handler.wfile.write(b"x" * chunk)
            handler.web.sent += chunk
            time.sleep(pause)

    return answer


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    web = Web()
    server = QuietServer(("127.0.0.1", 0), type("Bound", (Handler,), {"web": web}))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    web.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
