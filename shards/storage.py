"""How bytes reach a disk and come back: the only place that knows.

Everything is written aside and renamed, so that a file with its final name is whole.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 8192
BLOCK = 1 << 20


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


class RangeReader:
    """Reads ranges of one file; forks and threads may share it, because it has no position.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str | Path) -> None:
        # The file object closes the descriptor when the last reference to the reader goes.
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115
        self.size = os.fstat(self._file.fileno()).st_size

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`.

        Raises:
            EOFError: the file ends before.
        """
        pieces = []
        while length > 0:
            piece = os.pread(self._file.fileno(), length, offset)
            if not piece:
                raise EOFError(f"{self._file.name} ends at byte {self.size}, before {offset}")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_range(path: str | Path, offset: int, length: int) -> bytes:
    """`length` bytes of the file from `offset`; raises EOFError where the file is shorter."""
    return RangeReader(path).read(offset, length)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A path in the same folder to write to; it takes the name `path` when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each writer: two workers may be given the same task.
    aside = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        yield aside
        _flush_to_disk(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with atomic_path(path) as aside:
        aside.write_bytes(data)


def write_table(path: str | Path, table: pa.Table, *, row_group_size: int = ROW_GROUP) -> str:
    """Writes Parquet whose bytes depend on the rows alone, and returns their sha256.

    Each row group is laid out afresh, because how a table is cut into chunks would otherwise show
    in where Parquet's pages end.
    """
    with atomic_path(path) as aside, aside.open("wb") as file:
        out = HashingWriter(file)
        with pq.ParquetWriter(out, table.schema, compression="zstd") as writer:
            for start in range(0, table.num_rows, row_group_size):
                group = table.slice(start, row_group_size).combine_chunks()
                writer.write_table(group, row_group_size=row_group_size)
        return out.sha256()


def read_table(
    path: str | Path, columns: Sequence[str] | None = None, filters: Any = None
) -> pa.Table:
    """A Parquet file, or the named columns and the filtered rows of it."""
    names = None if columns is None else list(columns)
    return pq.read_table(path, columns=names, filters=filters)


def read_schema(path: str | Path) -> pa.Schema:
    """The columns of a Parquet file."""
    return pq.read_schema(path)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON with sorted keys, one space of indent and a last newline."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False)
    write_atomic(path, text.encode() + b"\n")


def read_json(path: str | Path) -> Any:
    """The value that a JSON file holds."""
    return json.loads(Path(path).read_bytes())


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_rows(path: str | Path, first: int, count: int) -> pa.Table:
    """Rows `first` to `first + count` of a Parquet file, from the row groups that hold them."""
    file = pq.ParquetFile(path)
    groups, start, skipped = [], 0, 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if start + size <= first:
            skipped = start + size
        elif start < first + count:
            groups.append(group)
        start += size
    return file.read_row_groups(groups).slice(first - skipped, count)
