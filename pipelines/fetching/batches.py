"""The URLs of a partition in batches, each of which ends as tars of images and an index of them.

Batches are cut by hash and number of URLs alone, images lie in them in the order of the hashes, and
a tar is named by what is in it. So the same answers give the same bytes, whenever each of them
arrived, and attempts that overlap cannot mix theirs.

What arrives goes to a file of the local disk and is put in order when all of its batch is there: a
URL that takes long holds its batch open, no memory and no other URL.
"""

import asyncio
import hashlib
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.fetching.fetch import Fetched, Fetcher, FetchOptions, fetcher
from shards import schema
from shards.images import ImageRejectedError, Resize, stored_image, write_image_tar
from shards.storage import Location, copy, exists, write_table

OPEN_BATCHES = 8  # of a partition, at once: files on the local disk, and URLs in memory
VISITORS = 1024  # that wait for their turn at a host or are at it
DECODERS = max(1, len(os.sched_getaffinity(0)))  # threads

TELL_SECONDS = 5.0

Chain = list[slice]  # of the URLs in order: batches that share a host, to be fetched one by one


def host_of(url: str) -> str:
    """What paces a URL; of one that is none, itself."""
    return url.split("/", 3)[2].lower() if url.count("/") >= 2 else url


def in_order(urls: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The order of distinct URLs, host by host; and the hashes of their hosts, in that order.

    Shape: both [URLs].
    """
    hosts, keys = (
        np.array([int(schema.digest(text)[:16], 16) for text in texts], np.uint64)
        for texts in (map(host_of, urls.to_pylist()), urls.to_pylist())
    )
    order = np.lexsort((keys, hosts))
    return order, hosts[order]


def chains(hosts: NDArray[np.uint64], most: int) -> list[Chain]:
    """Batches of at most `most` URLs, given the hosts of URLs in order.

    A host that fits into a batch is in one only, and so most batches need not wait for another.
    """
    edges = np.flatnonzero(np.diff(hosts)) + 1
    found: list[Chain] = []
    start, end = 0, 0  # of the batch that is being filled
    for first, last in zip([0, *edges.tolist()], [*edges.tolist(), len(hosts)], strict=True):
        if last - start > most and end > start:
            found.append([slice(start, end)])
            start = first
        if last - first > most:
            found.append([slice(i, min(i + most, last)) for i in range(first, last, most)])
            start = last
        end = last
    return [*found, [slice(start, end)]] if end > start else found


@dataclass
class Arrivals:
    """The answers of a batch as they arrive, in any order and from any thread."""

    file: Any  # of the local disk
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)  # by URL
    pieces: dict[str, tuple[int, int, str]] = field(default_factory=dict)  # of the file, by sha256
    known: dict[bytes, dict[str, Any]] = field(default_factory=dict)  # by hash of the body
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fetched: Fetched, resize: Resize | None) -> None:
        """Takes in how a URL ended; bytes that came from another URL before are decoded once."""
        told: dict[str, Any] = {"reason": fetched.reason}
        if fetched.body is not None:
            key = hashlib.sha256(fetched.body).digest()
            told = self.known.get(key) or self._decoded(fetched.body, resize)
            self.known[key] = told
        self.rows[fetched.url] = {"url": fetched.url, **told}

    def keep(self, rows: pa.Table) -> None:
        """Takes in what an earlier run has stored, or was refused."""
        self.rows.update((row["url"], row) for row in rows.to_pylist())

    def _decoded(self, body: bytes, resize: Resize | None) -> dict[str, Any]:
        try:
            facts, stored = stored_image(body, resize)
        except ImageRejectedError as rejected:
            return {"reason": str(rejected)}
        digest = schema.digest(stored)
        with self.lock:
            self.pieces[facts["sha256"]] = (self.file.tell(), len(stored), digest)
            self.file.write(stored)
        return facts

    def read(self, sha256: str) -> bytes:
        """The stored bytes of an image."""
        start, length, _ = self.pieces[sha256]
        self.file.seek(start)
        return bytes(self.file.read(length))


def write_batch(
    arrivals: Arrivals, urls: Sequence[str], folder: Location, name: str, tar_bytes: int
) -> pa.Table:
    """Writes the images of `urls` to tars `folder/store/NAME-DIGEST.tar`; their rows of `IMAGE`.

    A tar is begun when the one before has `tar_bytes`.
    """
    rows = [arrivals.rows[url] for url in urls]
    new = [row for row in rows if row.get("sha256") and not row.get("tar")]
    formats = {row["sha256"]: row["format"] for row in new}
    places: dict[str, dict[str, Any]] = {}
    for images in _tars(list(formats), arrivals.pieces, tar_bytes):
        contents = schema.digest(*(arrivals.pieces[image][2] for image in images))
        tar_name = f"store/{name}-{contents[:16]}.tar"
        with write_image_tar(folder / tar_name) as tar:
            for image in images:
                offset, length = tar.add(image, arrivals.read(image), formats[image])
                places[image] = {"tar": tar_name, "offset": offset, "length": length}
    for row in new:
        row |= places[row["sha256"]]
    return pa.Table.from_pylist(rows, schema=schema.IMAGE)


def _tars(
    images: Sequence[str], pieces: Mapping[str, tuple[int, int, str]], most: int
) -> Iterator[list[str]]:
    """The images of each tar."""
    tar, size = list[str](), 0
    for image in images:
        tar.append(image)
        size += pieces[image][1]
        if size >= most:
            yield tar
            tar, size = [], 0
    if tar:
        yield tar


@dataclass(frozen=True)
class Target:
    """Where the batches of a partition are written, and how."""

    folder: Location  # of the stage
    name: str  # of the partition
    options: FetchOptions
    resize: Resize | None
    tar_bytes: int
    # What is known of some URLs, which are not asked: rows of `schema.IMAGE`, and the folder that
    # their tars are in.
    known: pa.Table = field(default_factory=schema.IMAGE.empty_table)
    earlier: Location | None = None

    def batch(self, number: int) -> str:
        """The name of a batch."""
        return f"{self.name}-{number:04d}"

    def index(self, number: int) -> Location:
        """The file that says that a batch is written, and what is in it."""
        return self.folder / "store" / f"{self.batch(number)}.parquet"


def fetch_partition(
    urls: pa.Array, batches: Sequence[Chain], target: Target, tell: Callable[[int], None]
) -> None:
    """Fetches and writes the batches of `urls`, in order, that are not written yet.

    `tell` is given the number of URLs that have ended, now and then. Must not be called inside a
    running event loop (RuntimeError).
    """
    asyncio.run(_fetch_partition(urls, batches, target, tell))


@dataclass
class _Run:
    """What the batches of a partition share."""

    target: Target
    urls: pa.Array
    call: Fetcher
    pool: ThreadPoolExecutor  # for decoding and writing
    ended: int = 0  # URLs
    batches: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(OPEN_BATCHES))
    visitors: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(VISITORS))

    async def apart(self, work: Callable[..., Any], *given: Any) -> Any:
        """Calls `work` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *given)


async def _fetch_partition(
    urls: pa.Array, batches: Sequence[Chain], target: Target, tell: Callable[[int], None]
) -> None:
    with ThreadPoolExecutor(DECODERS, "decode", _share_cores) as pool:
        async with fetcher(target.options) as call:
            run, number = _Run(target, urls, call, pool), 0
            telling = asyncio.create_task(_tell(run, tell))
            async with asyncio.TaskGroup() as group:
                for chain in batches:
                    group.create_task(_fetch_chain(run, chain, number))
                    number += len(chain)
            telling.cancel()
    tell(len(urls))


def _share_cores() -> None:
    """OpenCV's own threads would get in the way of ours."""
    import cv2

    cv2.setNumThreads(1)


async def _tell(run: _Run, tell: Callable[[int], None]) -> None:
    while True:
        await asyncio.sleep(TELL_SECONDS)
        await asyncio.to_thread(tell, run.ended)


async def _fetch_chain(run: _Run, chain: Chain, first: int) -> None:
    for number, batch in enumerate(chain, first):
        async with run.batches:
            if not await run.apart(exists, run.target.index(number)):
                await _fetch_batch(run, run.urls[batch].to_pylist(), number)
            else:
                run.ended += batch.stop - batch.start


async def _fetch_batch(run: _Run, urls: list[str], number: int) -> None:
    with tempfile.TemporaryFile() as file:
        arrivals = Arrivals(file)
        asked = await run.apart(_begin, arrivals, urls, run.target)
        run.ended += len(urls) - len(asked)
        async with asyncio.TaskGroup() as group:
            for _, of_host in groupby(asked, host_of):
                queue = deque(of_host)
                for _ in range(min(run.call.options.per_host_concurrency, len(queue))):
                    await run.visitors.acquire()
                    group.create_task(_visit(run, queue, arrivals))
        await run.apart(_end, arrivals, urls, run.target, number)


def _begin(arrivals: Arrivals, urls: list[str], target: Target) -> list[str]:
    """The URLs to be asked; what is known of the others is taken over, and so are their tars."""
    known = target.known.filter(pc.is_in(target.known["url"], pa.array(urls)))
    arrivals.keep(known)
    if target.earlier is not None:
        take_over(known["tar"], target.earlier, target.folder)
    return [url for url in urls if url not in arrivals.rows]


def take_over(tars: pa.ChunkedArray, earlier: Location, folder: Location) -> None:
    """Have the tars of an earlier output in `folder` too, without reading them where that goes."""
    for tar in pc.unique(tars.drop_null()).to_pylist():
        if not exists(folder / tar):
            copy(earlier / tar, folder / tar)


def _end(arrivals: Arrivals, urls: list[str], target: Target, number: int) -> None:
    batch = target.batch(number)
    index = write_batch(arrivals, urls, target.folder, batch, target.tar_bytes)
    write_table(target.index(number), index)


async def _visit(run: _Run, queue: deque[str], arrivals: Arrivals) -> None:
    """Fetches URLs of one host, one after another, until there are none left."""
    try:
        while queue:
            async with run.call.fetched(queue.popleft()) as fetched:
                await run.apart(arrivals.add, fetched, run.target.resize)
            run.ended += 1
    finally:
        run.visitors.release()
