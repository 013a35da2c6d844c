"""An S3 server on loopback that misbehaves on demand: moto's, behind a proxy that breaks things.

    python tests/servers/s3.py --port 9000 --bucket crawl [--data FOLDER]

prints its endpoint when it listens and runs until it is interrupted or terminated. Objects are
kept in memory. Any credentials are right. Other processes steer it over HTTP:

- `POST /-/down?seconds=30` refuses every connection for that long, at the same port, and drops
  the open ones; what is stored stays. (SIGSTOP and SIGCONT make a server that hangs instead.)
- `POST /-/fault?kind=error&method=GET&keys=shards/*&count=3&status=503&code=SlowDown` breaks the
  next requests that match, see `Fault`.
- `GET /-/requests` lists the last requests, as JSON.

`control` makes these requests.
"""

import argparse
import json
import logging
import signal
import socket
import socketserver
import struct
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import boto3
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

HOST = "127.0.0.1"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST instead of FIN
ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message></Error>"
# A connection's own, not the message's (RFC 9110, section 7.6.1), and what the proxy says itself.
NOT_FORWARDED = {"connection", "keep-alive", "transfer-encoding", "expect", "date", "server"}


@dataclass
class Fault:
    """What happens to the next `count` requests of `method` (any if "*") to keys like `keys`.

    Kinds:
        error: the answer is `status` with the error `code`; nothing reaches the store.
        slow: the request is served, but its body stops for `seconds` after `after` bytes.
        drop: the connection is reset after `after` bytes of the body (the request's body if it
            has one, and then nothing reaches the store).
        truncate: the answer promises its whole length, ends after `after` bytes, and is closed.
        lose: the request is served, but the connection is reset before any answer.
    """

    kind: str
    method: str = "*"
    keys: str = "*"  # shell pattern
    query: str = "*"  # shell pattern, for example "*partNumber=2*"
    count: int = 1
    after: int = 0  # bytes
    seconds: float = 1.0
    status: int = 503
    code: str = "SlowDown"

    def matches(self, request: "Request") -> bool:
        """Whether this is a request to break."""
        return (
            self.method in ("*", request.method)
            and fnmatchcase(request.key, self.keys)
            and fnmatchcase(request.query, self.query)
        )


@dataclass(frozen=True)
class Request:
    """One request as the proxy saw it; the names of headers are in lower case."""

    method: str
    bucket: str
    key: str
    query: str
    headers: dict[str, str]


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client, and the one to moto that goes with it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Proxy"

    def setup(self) -> None:
        super().setup()
        self._moto = HTTPConnection(HOST, self.server.owner.moto_port)
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self._moto.close()
        self.server.connections.discard(self.connection)
        with suppress(OSError):  # the client or `down` has closed it
            super().finish()

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # The client has gone away, or `down` has dropped it.

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _serve(self) -> None:
        url = urlsplit(self.path)
        if url.path.startswith("/-/"):
            return self._steer(url.path[3:], dict(parse_qsl(url.query)))
        _, bucket, *key = unquote(url.path).split("/", 2)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, bucket, "".join(key), url.query, headers)
        fault = self.server.owner.fault_of(request)
        body = self._body(fault)
        if body is None:
            return self._reset()
        if fault and fault.kind == "error":
            text = ERROR.format(fault.code, "as asked").encode()
            return self._answer(fault.status, {"Content-Type": "application/xml"}, text)
        status, answer_headers, text = self._forward(body)
        if fault:
            return self._break(fault, status, answer_headers, text)
        return self._answer(status, answer_headers, text)

    def _body(self, fault: Fault | None) -> bytes | None:
        """The request's body; None if the connection shall break in the middle of it."""
        length = int(self.headers.get("Content-Length", 0))
        if fault and fault.kind == "drop" and length:
            self.rfile.read(min(fault.after, length))
            return None
        return self.rfile.read(length)

    def _forward(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in NOT_FORWARDED}
        for attempt in range(2):  # moto may have closed a connection that was idle
            try:
                self._moto.request(self.command, self.path, body, headers)
                answer = self._moto.getresponse()
                return answer.status, dict(answer.headers), answer.read()
            except (HTTPException, ConnectionError):
                self._moto.close()
                if attempt:
                    raise
        raise AssertionError

    def _head(self, status: int, headers: Mapping[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in NOT_FORWARDED | {"content-length"}:
                self.send_header(name, value)
        # The answer to HEAD tells the length of what GET would send.
        told = headers.get("Content-Length", str(length)) if self.command == "HEAD" else length
        if status not in (204, 304):
            self.send_header("Content-Length", str(told))

    def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._head(status, headers, len(body))
        self._headers_buffer.append(b"\r\n" + (b"" if self.command == "HEAD" else body))
        self.flush_headers()  # in one packet with the body

    def _break(self, fault: Fault, status: int, headers: Mapping[str, str], body: bytes) -> None:
        if fault.kind == "lose":
            return self._reset()
        self._head(status, headers, len(body))
        self.end_headers()
        self.wfile.write(body[: fault.after])
        if fault.kind == "slow":
            time.sleep(fault.seconds)
            self.wfile.write(body[fault.after :])
        elif fault.kind == "drop":
            time.sleep(0.05)  # a reset overtakes what the client has not read yet
            self._reset()
        self.close_connection = fault.kind != "slow"
        return None

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close_connection = True

    def _steer(self, action: str, arguments: dict[str, str]) -> None:
        owner = self.server.owner
        body = b""
        if action == "fault":
            types: dict[str, Any] = {field.name: field.type for field in fields(Fault)}
            owner.fault(**{name: types[name](value) for name, value in arguments.items()})
        elif action == "requests":
            body = json.dumps([asdict(request) for request in owner.requests]).encode()
        elif action == "down":
            self.server.connections.discard(self.connection)  # the answer says that it is down
            owner.down(float(arguments["seconds"]))
        else:
            return self._answer(404, {}, b"")
        self.close_connection = True
        return self._answer(200, {"Content-Type": "application/json"}, body)

    def log_message(self, *_: object) -> None:
        pass


class _Proxy(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, owner: "S3Server", port: int) -> None:
        # Bound but not listening: connections are refused and nobody else gets the port.
        super().__init__((HOST, port), _Handler, bind_and_activate=False)
        self.server_bind()
        self.owner = owner
        self.connections: set[socket.socket] = set()

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's looks the name up in DNS

    def shutdown_request(self, request: Any) -> None:
        request.close()  # without a FIN before the RST of `_reset`

    def drop_connections(self) -> None:
        for connection in list(self.connections):
            with suppress(OSError):  # its own thread was faster
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                connection.shutdown(socket.SHUT_RDWR)


class S3Server:
    """The server; `endpoint` is its URL. All servers of one process share moto's buckets."""

    def __init__(self, port: int = 0) -> None:
        self._moto = ThreadedMotoServer(HOST, 0, verbose=False)
        self._moto.start()
        self.moto_port = self._moto.get_host_and_port()[1]
        self.requests: deque[Request] = deque(maxlen=10_000)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._proxy = _Proxy(self, port)
        self.port = self._proxy.server_address[1]
        self.endpoint = f"http://{HOST}:{self.port}"
        self.up()

    def up(self) -> None:
        """Listens."""
        self._proxy.server_activate()
        threading.Thread(target=self._proxy.serve_forever, args=(0.05,), daemon=True).start()

    def down(self, seconds: float | None = None) -> None:
        """Refuses connections, for `seconds` or until `up`, and drops those that are open."""
        self._proxy.shutdown()
        self._proxy.server_close()
        self._proxy.drop_connections()
        self._proxy = _Proxy(self, self.port)
        if seconds is not None:
            timer = threading.Timer(seconds, self.up)
            timer.daemon = True
            timer.start()

    def stop(self) -> None:
        """Ends the server and frees the port; it must be up."""
        self._proxy.shutdown()
        self._proxy.server_close()
        self._proxy.drop_connections()
        self._moto.stop()

    def fault(self, kind: str, **rule: Any) -> Fault:
        """Adds a rule; the first one that matches and has not been used up is applied."""
        fault = Fault(kind, **rule)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Forgets the rules and the requests seen."""
        with self._lock:
            self._faults.clear()
        self.requests.clear()

    def fault_of(self, request: Request) -> Fault | None:
        """Records the request and uses up one count of the rule it falls under."""
        self.requests.append(request)
        with self._lock:
            for fault in self._faults:
                if fault.count > 0 and fault.matches(request):
                    fault.count -= 1
                    return fault
        return None

    @cached_property
    def client(self) -> Any:
        """A boto3 client that bypasses the proxy."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://{HOST}:{self.moto_port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )


@contextmanager
def serve(port: int = 0) -> Iterator[S3Server]:
    """A server for the length of a block."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = S3Server(port)
    try:
        yield server
    finally:
        server.stop()


def control(endpoint: str, action: str, **arguments: object) -> bytes:
    """Steers a server in another process: `control(endpoint, "down", seconds=30)`."""
    url = f"{endpoint}/-/{action}?{urlencode(arguments)}"
    with urllib.request.urlopen(url, data=b"") as answer:
        said: bytes = answer.read()
        return said


def _upload(server: S3Server, bucket: str, folder: Path) -> None:
    client = server.client
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        client.upload_file(str(file), bucket, file.relative_to(folder).as_posix())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bucket", action="append", default=[], help="made at the start")
    parser.add_argument("--data", type=Path, help="a folder to put into the first bucket")
    arguments = parser.parse_args()
    ends = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with serve(arguments.port) as server:
        for bucket in arguments.bucket:
            server.client.create_bucket(Bucket=bucket)
        if arguments.data:
            _upload(server, arguments.bucket[0], arguments.data)
        print(server.endpoint, flush=True)
        signal.sigwait(ends)


if __name__ == "__main__":
    main()
