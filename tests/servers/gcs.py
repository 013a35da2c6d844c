"""A small server that speaks Google Cloud Storage's JSON API, in memory, on loopback.

    python tests/servers/gcs.py --port 0 --bucket b

Point clients at it with `STORAGE_EMULATOR_HOST` or an endpoint. It knows what
google-cloud-storage and Beam's staging ask for: buckets, uploads of the three kinds, media with
ranges, metadata, listings by page, deletion, batches and generation preconditions. It keeps every
request it got, and can be told to fail, cut or corrupt the next answers.
"""

import argparse
import base64
import hashlib
import itertools
import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import google_crc32c

UPDATED = "2024-01-01T00:00:00.000Z"
MAX_RESULTS = 1000  # of a page, as the service caps it


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # still quoted, because a key may hold a slash
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    body: bytes = field(repr=False, default=b"")


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = field(repr=False, default=b"")
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None  # close the connection after this many bytes of the body
    lost: bool = False  # close the connection without an answer


@dataclass(frozen=True)
class Stored:
    bucket: str
    key: str
    data: bytes = field(repr=False)
    generation: int
    content_type: str

    @property
    def crc32c(self) -> str:
        return base64.b64encode(google_crc32c.value(self.data).to_bytes(4, "big")).decode()

    @property
    def md5(self) -> str:
        digest = hashlib.md5(self.data, usedforsecurity=False).digest()
        return base64.b64encode(digest).decode()

    def metadata(self) -> dict[str, object]:
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{self.key}/{self.generation}",
            "bucket": self.bucket,
            "name": self.key,
            "generation": str(self.generation),
            "metageneration": "1",
            "contentType": self.content_type,
            "size": str(len(self.data)),
            "crc32c": self.crc32c,
            "md5Hash": self.md5,
            "etag": f"e{self.generation}",
            "updated": UPDATED,
            "timeCreated": UPDATED,
        }


@dataclass
class Session:
    """A resumable upload that has begun."""

    bucket: str
    key: str
    query: dict[str, str]
    metadata: dict[str, str]
    content_type: str
    data: bytearray = field(default_factory=bytearray)
    answer: Response | None = None  # once it is complete


class RefusedError(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Gcs:
    """The buckets, and what the next answers shall suffer."""

    def __init__(self, url: str, buckets: tuple[str, ...]) -> None:
        self.url = url
        self.buckets: dict[str, dict[str, Stored]] = {name: {} for name in buckets}
        self.sessions: dict[str, Session] = {}
        self.requests: list[Request] = []
        self._numbers = itertools.count(1)
        self._statuses: deque[int | None] = deque()
        self._cuts: deque[int] = deque()
        self._corrupt = 0
        self._lost = 0
        self._lock = threading.RLock()

    def fail(self, count: int, status: int = 503, after: int = 0) -> None:
        """Answer `count` requests with `status`, once `after` others were answered as they are."""
        self._statuses.extend([None] * after + [status] * count)

    def cut(self, count: int, sent: int) -> None:
        """Drop the connection after `sent` bytes of the next `count` bodies of objects."""
        self._cuts.extend([sent] * count)

    def corrupt(self, count: int) -> None:
        """Flip a bit in the first byte of the next `count` bodies of objects."""
        self._corrupt += count

    def lose(self, count: int) -> None:
        """Carry out the next `count` requests, but drop the connection before the answer."""
        self._lost += count

    def data(self, bucket: str) -> dict[str, bytes]:
        """What a bucket holds, by key."""
        return {key: stored.data for key, stored in self.buckets[bucket].items()}

    def put(self, bucket: str, key: str, data: bytes, kind: str = "text/plain") -> Stored:
        """Store an object without a request."""
        stored = Stored(bucket, key, data, next(self._numbers), kind)
        self.buckets[bucket][key] = stored
        return stored

    def answer(self, request: Request) -> Response:
        """Answer one request, alone or in a batch."""
        with self._lock:
            self.requests.append(request)
            try:
                if self._statuses and (status := self._statuses.popleft()):
                    raise RefusedError(status, "as it was told to")
                response = self._route(request)
            except RefusedError as refusal:
                error = {"code": refusal.status, "message": str(refusal)}
                return _json({"error": error}, refusal.status)
            if self._lost:
                self._lost -= 1
                return replace(response, lost=True)
            return response

    def _route(self, request: Request) -> Response:
        parts = [unquote(part) for part in request.path.strip("/").split("/")]
        match (request.method, *parts):
            case ("POST", "batch", "storage", "v1"):
                return self._batch(request)
            case ("POST", "storage", "v1", "b"):
                return self._make_bucket(json.loads(request.body)["name"])
            case ("GET", "storage", "v1", "b", bucket):
                self._bucket(bucket)
                return _json(_bucket_metadata(bucket))
            case ("GET", "storage", "v1", "b", bucket, "o"):
                return self._list(bucket, request.query)
            case ("GET", "storage" | "download", *_, bucket, "o", key):
                return self._get(bucket, key, request)
            case ("POST", "storage", "v1", "b", bucket, "o", key, "rewriteTo", "b", other, "o", to):
                copied = self._current(bucket, key, request.query)
                stored = self.put(other, to, copied.data, copied.content_type)
                answer = {"kind": "storage#rewriteResponse", "done": True}
                sizes = dict.fromkeys(("totalBytesRewritten", "objectSize"), str(len(copied.data)))
                return _json(answer | sizes | {"resource": stored.metadata()})
            case ("DELETE", "storage", "v1", "b", bucket, "o", key):
                self._current(bucket, key, request.query)
                del self.buckets[bucket][key]
                return Response(204)
            case ("POST", "upload", "storage", "v1", "b", bucket, "o"):
                return self._upload(bucket, request)
            case ("PUT", "upload", "storage", "v1", "b", _, "o"):
                return self._resume(request)
            case ("DELETE", "upload", "storage", "v1", "b", _, "o"):
                self.sessions.pop(request.query["upload_id"], None)
                return Response(499)
        raise RefusedError(501, f"{request.method} {request.path} is not spoken here")

    def _bucket(self, name: str) -> dict[str, Stored]:
        if name not in self.buckets:
            raise RefusedError(404, "The specified bucket does not exist.")
        return self.buckets[name]

    def _make_bucket(self, name: str) -> Response:
        if name in self.buckets:
            raise RefusedError(409, "The bucket already exists.")
        self.buckets[name] = {}
        return _json(_bucket_metadata(name))

    def _current(self, bucket: str, key: str, query: dict[str, str]) -> Stored:
        """The object, if it is of the generation that the query names."""
        stored = self._bucket(bucket).get(key)
        self._check(stored, query)
        if stored is None or query.get("generation", str(stored.generation)) != str(
            stored.generation
        ):
            raise RefusedError(404, f"No such object: {bucket}/{key}")
        return stored

    def _check(self, stored: Stored | None, query: dict[str, str]) -> None:
        generation = str(stored.generation if stored else 0)
        if (
            query.get("ifGenerationMatch", generation) != generation
            or query.get("ifGenerationNotMatch") == generation
        ):
            raise RefusedError(
                412, "At least one of the pre-conditions you specified did not hold."
            )

    def _list(self, bucket: str, query: dict[str, str]) -> Response:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        entries = dict[str, Stored | None]()  # of a folder, None
        for key, stored in sorted(self._bucket(bucket).items()):
            if key.startswith(prefix):
                head, cut, _ = key[len(prefix) :].partition(delimiter or "\0")
                entries |= {prefix + head + delimiter: None} if cut else {key: stored}
        names = [name for name in entries if name > query.get("pageToken", "")]
        size = min(int(query.get("maxResults", MAX_RESULTS)), MAX_RESULTS)
        page, answer = names[:size], dict[str, object](kind="storage#objects")
        answer["items"] = [found.metadata() for name in page if (found := entries[name])]
        answer["prefixes"] = [name for name in page if entries[name] is None]
        if len(names) > size:
            answer["nextPageToken"] = page[-1]
        return _json(answer)

    def _get(self, bucket: str, key: str, request: Request) -> Response:
        stored = self._current(bucket, key, request.query)
        if request.query.get("alt") != "media":
            return _json(stored.metadata())
        response = _media(stored, request.headers.get("range"))
        if self._corrupt and response.body:
            self._corrupt -= 1
            return replace(response, body=bytes([response.body[0] ^ 1]) + response.body[1:])
        if self._cuts:
            return replace(response, sent=self._cuts.popleft())
        return response

    def _upload(self, bucket: str, request: Request) -> Response:
        self._bucket(bucket)
        query = request.query
        content_type = request.headers.get("content-type", "application/octet-stream")
        match query["uploadType"]:
            case "media":
                return self._store(bucket, query["name"], request.body, content_type, query, {})
            case "multipart":
                head, media = _parts(request)
                metadata = json.loads(_payload(head))
                kind = media.get_content_type()
                return self._store(bucket, metadata["name"], _payload(media), kind, query, metadata)
            case "resumable":
                return self._begin(bucket, request)
        raise RefusedError(400, f"uploadType {query['uploadType']}")

    def _begin(self, bucket: str, request: Request) -> Response:
        metadata = json.loads(request.body or b"{}")
        key = metadata.get("name") or request.query["name"]
        self._check(self.buckets[bucket].get(key), request.query)
        kind = request.headers.get("x-upload-content-type", "application/octet-stream")
        number = str(next(self._numbers))
        self.sessions[number] = Session(bucket, key, request.query, metadata, kind)
        path = f"{self.url}/upload/storage/v1/b/{quote(bucket)}/o"
        location = f"{path}?uploadType=resumable&upload_id={number}"
        return Response(200, headers={"Location": location, "X-GUploader-UploadID": number})

    def _resume(self, request: Request) -> Response:
        number = request.query["upload_id"]
        session = self.sessions.get(number)
        if session is None:
            raise RefusedError(410, "no such upload")
        if session.answer:
            return session.answer
        unit, _, total = request.headers.get("content-range", "bytes */*").partition("/")
        span = unit.removeprefix("bytes ")
        if span != "*":
            start = int(span.split("-")[0])
            if start > len(session.data):
                raise RefusedError(503, f"bytes before {start} are missing")
            session.data[start:] = request.body
        if total == "*" or len(session.data) < int(total):
            last = len(session.data) - 1
            return Response(308, headers={"Range": f"bytes=0-{last}"} if session.data else {})
        session.answer = self._store(
            session.bucket,
            session.key,
            bytes(session.data),
            session.content_type,
            session.query,
            session.metadata | _hashes(request.headers.get("x-goog-hash", "")),
        )
        return session.answer

    def _store(
        self,
        bucket: str,
        key: str,
        data: bytes,
        content_type: str,
        query: dict[str, str],
        metadata: dict[str, str],
    ) -> Response:
        self._check(self.buckets[bucket].get(key), query)
        stored = Stored(bucket, key, data, next(self._numbers), content_type)
        for name, value in (("crc32c", stored.crc32c), ("md5Hash", stored.md5)):
            if metadata.get(name, value) != value:
                raise RefusedError(400, f"Provided {name} does not match that of the object.")
        self.buckets[bucket][key] = stored
        return _json(stored.metadata())

    def _batch(self, request: Request) -> Response:
        answers = []
        for part in _parts(request):
            inner = self.answer(_inner(_payload(part)))
            head = [
                "Content-Type: application/http",
                f"Content-ID: <response-{part.get('Content-ID', '').strip('<>')}>",
                "",
                f"HTTP/1.1 {inner.status} {inner.status}",
                *(f"{name}: {value}" for name, value in inner.headers.items()),
                "",
                "",
            ]
            answers.append("\r\n".join(head).encode() + inner.body)
        boundary = b"--batch_of_answers"
        body = b"".join(boundary + b"\r\n" + answer + b"\r\n" for answer in answers)
        kind = "multipart/mixed; boundary=batch_of_answers"
        return Response(200, body + boundary + b"--\r\n", {"Content-Type": kind})


def _json(value: object, status: int = 200) -> Response:
    kind = {"Content-Type": "application/json; charset=UTF-8"}
    return Response(status, json.dumps(value).encode(), kind)


def _bucket_metadata(name: str) -> dict[str, object]:
    return {
        "kind": "storage#bucket",
        "id": name,
        "name": name,
        "projectNumber": "1",
        "location": "US",
        "storageClass": "STANDARD",
        "timeCreated": UPDATED,
    }


def _media(stored: Stored, span: str | None) -> Response:
    size = len(stored.data)
    headers = {
        "Content-Type": stored.content_type,
        "ETag": f'"e{stored.generation}"',
        "X-Goog-Generation": str(stored.generation),
        "X-Goog-Metageneration": "1",
        "X-Goog-Stored-Content-Length": str(size),
        "X-Goog-Hash": f"crc32c={stored.crc32c},md5={stored.md5}",
    }
    if span is None:
        return Response(200, stored.data, headers)
    first, _, last = span.removeprefix("bytes=").partition("-")
    if not first:
        first, last = str(max(0, size - int(last))), ""
    start, end = int(first), min(int(last or size), size - 1)
    if start >= size:
        return Response(416, headers={"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return Response(206, stored.data[start : end + 1], headers)


def _hashes(header: str) -> dict[str, str]:
    """The header X-Goog-Hash as metadata says it."""
    pairs = dict(pair.strip().split("=", 1) for pair in header.split(",") if pair)
    return {{"md5": "md5Hash"}.get(name, name): value for name, value in pairs.items()}


def _parts(request: Request) -> list[Message]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = message_from_bytes(head + request.body)
    assert message.is_multipart()
    return [part for part in message.get_payload() if isinstance(part, Message)]


def _payload(part: Message) -> bytes:
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data


def _inner(text: bytes) -> Request:
    """A request written out as a part of a batch."""
    line, _, rest = text.partition(b"\n")
    method, target, *_ = line.decode().split()
    message = message_from_bytes(rest)
    headers = {name.lower(): value for name, value in message.items()}
    return _request(method, target, headers, _payload(message))


def _request(method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
    url = urlsplit(target)
    return Request(method, url.path, dict(parse_qsl(url.query)), headers, body)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet, or the client's acknowledgement is awaited
    server: "_Server"

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        response = self.server.gcs.answer(_request(self.command, self.path, headers, body))
        if response.lost:
            self.close_connection = True
            return
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body[: response.sent])
        if response.sent is not None:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Tests read `Gcs.requests` instead."""


class _Server(ThreadingHTTPServer):
    def __init__(self, port: int, buckets: tuple[str, ...]) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.gcs = Gcs(f"http://127.0.0.1:{self.server_port}", buckets)


@contextmanager
def serve(*buckets: str, port: int = 0) -> Iterator[Gcs]:
    """A server on a free port, in threads of this process."""
    server = _Server(port, buckets)
    # A short poll, because `shutdown` waits for the next one.
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.gcs
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve until interrupted; the first line says where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0 is a free one")
    parser.add_argument("--bucket", action="append", default=[], help="a bucket to begin with")
    arguments = parser.parse_args()
    server = _Server(arguments.port, tuple(arguments.bucket))
    print(server.gcs.url, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()
