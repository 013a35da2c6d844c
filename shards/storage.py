"""How bytes reach a disk or an object store and come back: the only place that knows.

A location is a local path or the place of an object (`s3://bucket/key`, `gs://bucket/key`), and
whoever is given one need not ask which. A file with its name is whole: locally it is written
aside and renamed; an object comes to be when all of it has arrived.
"""

import hashlib
import io
import json
import os
import shutil
import tempfile
import uuid
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from shards.stores import Store
from shards.stores.options import GcsOptions, S3Options, StorageOptions

ROW_GROUP = 8192
BLOCK = 1 << 20
STREAM_BUFFER = 8 << 20  # bytes read ahead of a remote stream
THREADS = 16  # requests under way to an object store
# Ranges of an object that are nearer than this are read in one request, up to a length: a request
# takes about as long as this many bytes.
NEAR, LONGEST = 1 << 18, 1 << 23

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Remote:
    """The place of an object, with how to reach it: small, picklable, and used like a `Path`."""

    scheme: str
    bucket: str
    key: str
    options: S3Options | GcsOptions

    def __truediv__(self, below: str | PurePosixPath) -> "Remote":
        return replace(self, key=f"{self.key}/{below}" if self.key else str(below))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "Remote":
        """The folder that it is in."""
        return replace(self, key=self.key.rpartition("/")[0])

    @property
    def suffix(self) -> str:
        """The name from its last dot on."""
        return PurePosixPath(self.key).suffix

    def with_name(self, name: str) -> "Remote":
        """Another object of the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "Remote":
        """The object beside it whose name ends otherwise."""
        return replace(self, key=str(PurePosixPath(self.key).with_suffix(suffix)))

    def relative_to(self, folder: "Remote") -> PurePosixPath:
        """The path below a folder; raises ValueError if it is not below."""
        return PurePosixPath(self.key).relative_to(folder.key)

    @property
    def store(self) -> Store:
        """The bucket's store, one a process: connections do not survive a fork."""
        return _open_store(os.getpid(), self.scheme, self.bucket, self.options)


Location = Path | Remote
SCHEMES = {"s3": S3Options, "gs": GcsOptions}


@cache
def _open_store(pid: int, scheme: str, bucket: str, options: Any) -> Store:
    # Imported when needed: each store's library is an extra.
    if scheme == "s3":
        from shards.stores import s3

        return s3.open_store(bucket, options)
    from shards.stores import gcs

    return gcs.open_store(bucket, options)


def location(place: str | Path | Remote, options: StorageOptions | None = None) -> Location:
    """The location that a user names; `options` are the environment's unless a recipe has some.

    Raises:
        ValueError: the scheme is unknown, or the bucket is missing.
    """
    if isinstance(place, Path | Remote):
        return place
    scheme, separator, rest = place.partition("://")
    if not separator:
        return Path(place)
    if scheme not in SCHEMES:
        raise ValueError(f"{place}: unknown scheme {scheme!r}; known are {', '.join(SCHEMES)}")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise ValueError(f"{place}: no bucket; write {scheme}://bucket/folder")
    options = options or StorageOptions.from_environment()
    return Remote(scheme, bucket, key.strip("/"), options.s3 if scheme == "s3" else options.gcs)


def below(folder: Location, path: str) -> Location:
    """The file at a path below a folder, or anywhere, if it is an absolute path or an address.

    Another bucket is reached like that of the folder, or as the environment says.
    """
    if "://" not in path:
        return Path(path) if path.startswith("/") else folder / path
    there = location(path)
    if isinstance(there, Remote) and isinstance(folder, Remote) and there.scheme == folder.scheme:
        return replace(there, options=folder.options)
    return there


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`work` of every item, in order, with many requests to a store under way."""
    items = list(items)
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(THREADS, len(items))) as pool:
        return list(pool.map(work, items))


# What is there


def exists(place: Location) -> bool:
    """Whether there is such a file or object."""
    try:
        size(place)
    except FileNotFoundError:
        return False
    return True


def size(place: Location) -> int:
    """A file's length in bytes; raises FileNotFoundError."""
    if isinstance(place, Remote):
        if not place.key:
            raise FileNotFoundError(2, "is a bucket, not an object", str(place))
        return place.store.size(place.key)
    if place.is_dir():
        raise FileNotFoundError(2, "is a folder, not a file", str(place))
    return place.stat().st_size


def stamp(place: Location) -> list[str | int]:
    """What tells that a file has changed, without reading it: hashing terabytes costs too much."""
    if isinstance(place, Remote):
        return [str(place), place.store.version(place.key)]
    status = place.stat()
    return [str(place), status.st_size, status.st_mtime_ns]


def names(folder: Location) -> list[str]:
    """The names in a folder, sorted, without those of files that are being written."""
    if isinstance(folder, Remote):
        return folder.store.names(folder.key)
    if not folder.is_dir():
        return []
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def files(folder: Location, suffix: str) -> list[Location]:
    """The files of a folder whose names end so, by name."""
    return [folder / name for name in names(folder) if name.endswith(suffix)]


def matching(pattern: Location) -> list[Location]:
    """The files that a pattern such as `s3://bucket/data/*.parquet` stands for, sorted."""
    if isinstance(pattern, Remote):
        fixed = pattern.key.split("*")[0].split("?")[0].split("[")[0]
        if fixed == pattern.key:
            return [pattern] if exists(pattern) else []
        keys = pattern.store.keys(fixed.rpartition("/")[0])
        depth = None if "**" in pattern.key else pattern.key.count("/")
        return [
            replace(pattern, key=key)
            for key in keys
            if fnmatchcase(key, pattern.key.replace("**/", "*")) and depth in (None, key.count("/"))
        ]
    return [Path(path) for path in sorted(glob(str(pattern), recursive=True))]


def remove_tree(folder: Location) -> None:
    """Remove a folder and all that is in it, if it is there."""
    if isinstance(folder, Remote):
        folder.store.delete(folder.store.keys(folder.key))
    else:
        shutil.rmtree(folder, ignore_errors=True)


# Writing


@contextmanager
def atomic_path(place: Location) -> Iterator[Path]:
    """A local path to write to; what was written becomes `place` when the block succeeds."""
    if isinstance(place, Remote):
        with tempfile.TemporaryDirectory(prefix="mixwright-") as folder:
            aside = Path(folder, place.name)
            yield aside
            place.store.put(place.key, aside)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each writer: two workers may be given the same task.
    aside = place.parent / f".{place.name}.{uuid.uuid4().hex}"
    try:
        yield aside
        _flush_to_disk(aside)
        os.replace(aside, place)
    finally:
        aside.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(place: Location, data: bytes) -> None:
    """Writes `data` to `place`, whole or not at all."""
    if isinstance(place, Remote):
        place.store.put_bytes(place.key, data)
        return
    with atomic_path(place) as aside:
        aside.write_bytes(data)


def copy(source: Location, place: Location) -> None:
    """Makes `place` what `source` of the same disk or bucket is, without reading it where it can.

    On a disk they are one file under two names: for files that are never written again.
    """
    if isinstance(source, Remote) and isinstance(place, Remote):
        place.store.copy(source.key, place.key)
        return
    assert isinstance(source, Path), "both are on one disk"
    with atomic_path(place) as aside:
        try:
            os.link(source, aside)
        except OSError:  # a file system without links
            shutil.copyfile(source, aside)


class HashingWriter:
    """A binary file for writing that knows the length and sha256 of what went through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.length = 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Writes `data`; returns its length in bytes."""
        # `len` of a buffer that is not bytes counts its items, so ask for its bytes.
        size = memoryview(data).nbytes
        self._file.write(data)
        self._hash.update(data)
        self.length += size
        return size

    def tell(self) -> int:
        """The number of bytes written."""
        return self.length

    def flush(self) -> None:
        """Hands what is buffered to the system."""
        self._file.flush()

    def sha256(self) -> str:
        """The hash of all that was written, hex."""
        return self._hash.hexdigest()


def write_table(place: Location, table: pa.Table, *, row_group_size: int = ROW_GROUP) -> str:
    """Writes Parquet whose bytes depend on the rows alone, and returns their sha256.

    Each row group is laid out afresh, because how a table is cut into chunks would otherwise show
    in where Parquet's pages end.
    """
    with atomic_path(place) as aside, aside.open("wb") as file:
        out = HashingWriter(file)
        with pq.ParquetWriter(out, table.schema, compression="zstd") as writer:
            for start in range(0, table.num_rows, row_group_size):
                group = table.slice(start, row_group_size).combine_chunks()
                writer.write_table(group, row_group_size=row_group_size)
    return out.sha256()


def write_json(place: Location, value: Any) -> None:
    """Writes JSON with sorted keys, one space of indent and a last newline."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False)
    write_atomic(place, text.encode() + b"\n")


# Reading


class _RemoteFile(io.RawIOBase):
    """A remote object as a seekable file, one range request a read."""

    def __init__(self, place: Remote) -> None:
        self._place, self._position = place, 0
        self.size = place.store.size(place.key)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self.size - self._position), 0)
        if length:
            data = self._place.store.get(self._place.key, self._position, length)
            buffer[:length] = data
            self._position += length
        return length


def open_stream(place: Location) -> io.BufferedReader:
    """A file for reading from front to back, or here and there; raises FileNotFoundError."""
    if isinstance(place, Remote):
        return io.BufferedReader(_RemoteFile(place), STREAM_BUFFER)
    return place.open("rb")


def read_bytes(place: Location) -> bytes:
    """All of a file; raises FileNotFoundError."""
    return place.store.get(place.key) if isinstance(place, Remote) else place.read_bytes()


class RangeReader:
    """Reads ranges of one file; forks and threads may share it, because it has no position.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, place: Location) -> None:
        self._place = place
        self.size = size(place)
        # The file object closes the descriptor when the last reference to the reader goes.
        self._file = None if isinstance(place, Remote) else open(place, "rb", buffering=0)  # noqa: SIM115

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; raises EOFError if the file ends before."""
        if isinstance(self._place, Remote):
            return self._place.store.get(self._place.key, offset, length)
        assert self._file is not None
        pieces = []
        while length > 0:
            piece = os.pread(self._file.fileno(), length, offset)
            if not piece:
                raise EOFError(f"{self._place} ends at byte {self.size}, before {offset}")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each (offset, length), in their order; near ranges share a request."""
        if not isinstance(self._place, Remote):
            return [self.read(offset, length) for offset, length in ranges]
        spans = _spans(ranges)
        bodies = in_parallel(lambda span: self.read(span[0], span[1] - span[0]), spans)
        starts = [start for start, _ in spans]
        found = []
        for offset, length in ranges:
            span = bisect_right(starts, offset) - 1
            begin = offset - starts[span]
            found.append(bodies[span][begin : begin + length])
        return found


def _spans(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The (start, end) of requests that together cover every (offset, length)."""
    spans: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        end = offset + length
        if spans and offset - spans[-1][1] <= NEAR and end - spans[-1][0] <= LONGEST:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        elif not spans or end > spans[-1][1]:
            spans.append((offset, end))
    return spans


def _parquet(place: Location, *, whole: bool = False) -> Any:
    """What Arrow reads Parquet from: an object in one request if all of it is wanted."""
    if not isinstance(place, Remote):
        return place
    return pa.BufferReader(read_bytes(place)) if whole else pa.PythonFile(_RemoteFile(place), "r")


def read_table(
    place: Location, columns: Sequence[str] | None = None, filters: Any = None
) -> pa.Table:
    """A Parquet file, or the named columns and the filtered rows of it."""
    names = None if columns is None else list(columns)
    source = _parquet(place, whole=names is None and filters is None)
    return pq.read_table(source, columns=names, filters=filters)


def read_schema(place: Location) -> pa.Schema:
    """The columns of a Parquet file."""
    return pq.read_schema(_parquet(place))


def open_parquet(place: Location) -> pq.ParquetFile:
    """A Parquet file to read row groups of; raises what Arrow does if it is none."""
    return pq.ParquetFile(_parquet(place), pre_buffer=True)


def row_count(place: Location) -> int:
    """The number of rows of a Parquet file."""
    return int(pq.read_metadata(_parquet(place)).num_rows)


def read_rows(
    place: Location, first: int, count: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """Rows `first` to `first + count` of a Parquet file, from the row groups that hold them."""
    file = open_parquet(place)
    groups, start, skipped = [], 0, 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if start + size <= first:
            skipped = start + size
        elif start < first + count:
            groups.append(group)
        start += size
    return file.read_row_groups(groups, columns).slice(first - skipped, count)


def read_json(place: Location) -> Any:
    """The value that a JSON file holds."""
    return json.loads(read_bytes(place))


def sha256_file(place: Location) -> str:
    """The sha256 of a file, hex."""
    with open_stream(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
