"""Pages to WARC files: the crawl that comes before the pipelines, small but real.

Every page is fetched over HTTP and its response written as it came, whatever its status. Dates
and record names come from the URL, never from the clock, so a site that answers the same gives
the same files.
"""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
import urllib3
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

DATE = "2024-01-01T00:00:00Z"
HEADERS = {"User-Agent": "mixwright-crawl", "Accept-Encoding": "identity"}
TIMEOUT = urllib3.Timeout(connect=10, read=30)


@dataclass(frozen=True)
class Response:
    """An answer as it came: `reason` and `headers` untouched, `cut` if the body ended early."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    cut: bool


def crawl(
    pages: pa.Table | Sequence[str],
    connect_to: Mapping[str, str],
    out_dir: Path,
    warcs: int,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Fetches each page once and writes the answers to `warcs` gzipped WARC files.

    `pages` are URLs, or a table with a `url` column. `connect_to` maps host patterns to
    `address:port`, as curl's `--connect-to` does. `progress` gets the count of pages done.
    Redirects are recorded, not followed. Raises urllib3's HTTPError if a server cannot be
    reached, and leaves no partial file behind.
    """
    urls = pages.column("url").to_pylist() if isinstance(pages, pa.Table) else pages
    out_dir.mkdir(parents=True, exist_ok=True)
    client = Client(connect_to)
    paths, done = [], 0
    for number, part in enumerate(split(urls, warcs)):
        paths.append(out_dir / f"pages-{number:05d}.warc.gz")
        with open_warc(paths[-1]) as writer:
            for url in part:
                write_response(writer, url, client.get(url))
                done += 1
                if progress:
                    progress(done)
    client.close()
    return paths


def split(urls: Sequence[str], parts: int) -> list[list[str]]:
    """Equal parts (to within one) chosen by the URLs' hashes; the order within each is kept."""
    order = list(dict.fromkeys(urls))
    ranked = sorted(order, key=lambda url: hashlib.sha256(url.encode()).digest())
    part = {url: rank % parts for rank, url in enumerate(ranked)}
    return [[url for url in order if part[url] == number] for number in range(parts)]


class Client:
    """HTTP GET over kept connections, to where `connect_to` says the hosts are."""

    def __init__(self, connect_to: Mapping[str, str]) -> None:
        self.connect_to = connect_to
        self.pools = urllib3.PoolManager(timeout=TIMEOUT)

    def get(self, url: str) -> Response:
        """The answer of the URL itself; raises urllib3's HTTPError if there is none."""
        parts = urlsplit(url)
        pool = self.pools.connection_from_url(f"{parts.scheme}://{self.address(parts.netloc)}")
        answer = pool.request(
            "GET",
            (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            headers={"Host": parts.netloc, **HEADERS},
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
        )
        return read_response(answer)

    def address(self, netloc: str) -> str:
        """Where to connect for a host: the first matching pattern's, else the host."""
        host = netloc.split(":")[0]
        matches = (to for pattern, to in self.connect_to.items() if fnmatchcase(host, pattern))
        return next(matches, netloc)

    def close(self) -> None:
        """Closes the kept connections."""
        self.pools.clear()


def read_response(answer: urllib3.BaseHTTPResponse) -> Response:
    """Reads an answer to its end, or to where the connection broke."""
    body, cut = BytesIO(), False
    try:
        for chunk in answer.stream(65536, decode_content=False):
            body.write(chunk)
    except urllib3.exceptions.ProtocolError:
        cut = True
    answer.release_conn()
    headers = tuple(answer.headers.items())
    return Response(answer.status, answer.reason or "", headers, body.getvalue(), cut)


@contextmanager
def open_warc(path: Path) -> Iterator[WARCWriter]:
    """A WARC file that begins with its warcinfo record and appears only when it is complete."""
    partial = path.with_suffix(".part")
    try:
        with partial.open("wb") as file:
            yield start_warc(file, path.name)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def start_warc(file: BinaryIO, name: str) -> WARCWriter:
    """A writer whose file already holds its warcinfo record."""
    writer = WARCWriter(file, gzip=True, warc_version="1.1")
    info = {"software": "mixwright", "format": "WARC File Format 1.1"}
    record = writer.create_warcinfo_record(name, info)
    record.rec_headers.replace_header("WARC-Record-ID", record_id(name))
    record.rec_headers.replace_header("WARC-Date", DATE)
    writer.write_record(record)
    return writer


def write_response(writer: WARCWriter, url: str, response: Response) -> None:
    """Writes one answer, named and dated without the clock."""
    head = StatusAndHeaders(
        f"{response.status} {response.reason}", list(response.headers), protocol="HTTP/1.1"
    )
    fields = {"WARC-Date": DATE, "WARC-Record-ID": record_id(url)}
    if response.cut:
        fields["WARC-Truncated"] = "disconnect"
    writer.write_record(
        writer.create_warc_record(
            url, "response", BytesIO(response.body), http_headers=head, warc_headers_dict=fields
        )
    )


def record_id(name: str) -> str:
    """A WARC record name from the hash of the URL."""
    return f"<urn:uuid:{uuid.UUID(bytes=hashlib.sha256(name.encode()).digest()[:16])}>"
