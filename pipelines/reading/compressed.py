"""Compressed files that may be damaged: all that can be read of them, and where they are broken.

Both gzip and zstd files are members (frames) one after another, each of which starts with a magic
number. What follows a broken member is found again by the next magic number.
"""

import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import zstandard

from shards.storage import Location, open_stream

SCAN = 1 << 20


@dataclass(frozen=True)
class Damage:
    """A place at which a file cannot be read: the first byte of the member, and what is wrong."""

    offset: int
    message: str


@dataclass(frozen=True)
class Codec:
    """How to undo a compression."""

    magic: bytes
    start: Callable[[], Any]  # a decompressor of one member, as zlib's
    error: type[Exception]
    chunk: int  # bytes to decompress at a time, few where a byte can become ten thousands


GZIP = Codec(b"\x1f\x8b\x08", lambda: zlib.decompressobj(31), zlib.error, 1 << 16)
ZSTD = Codec(
    b"\x28\xb5\x2f\xfd",
    lambda: zstandard.ZstdDecompressor().decompressobj(),
    zstandard.ZstdError,
    1 << 13,
)
CODECS = {".gz": GZIP, ".zst": ZSTD}


def plain_suffix(file: Location) -> str:
    """The suffix that tells a file's format, in lower case: the one before .gz or .zst."""
    name = PurePosixPath(file.name)
    return (name.with_suffix("") if name.suffix in CODECS else name).suffix.lower()


def decompressed(
    stream: BinaryIO, codec: Codec | None, start: int | None = 0
) -> Iterator[bytes | Damage]:
    """What a seekable stream holds from byte `start` on, in pieces.

    With a codec a member starts there. A damaged one gives the pieces before its damage, then a
    `Damage`. Raises OSError if the storage fails.
    """
    if codec is None:
        stream.seek(start or 0)
        while piece := stream.read(SCAN):
            yield piece
        return
    while start is not None:
        start = yield from _member(stream, start, codec)


def whole(file: Location) -> bytes:
    """All that a file holds, which its suffix may say is compressed.

    Raises ValueError, which names the place, for a file that is damaged.
    """
    with open_stream(file) as stream:
        pieces = list(decompressed(stream, CODECS.get(file.suffix)))
    if damage := next((piece for piece in pieces if isinstance(piece, Damage)), None):
        raise ValueError(f"{file}: {damage.message} at byte {damage.offset}")
    return b"".join(piece for piece in pieces if isinstance(piece, bytes))


def _member(
    stream: BinaryIO, start: int, codec: Codec
) -> Generator[bytes | Damage, None, int | None]:
    """What the member at `start` holds; returns where the next one starts, None at the end."""
    stream.seek(start)
    inflate, read = codec.start(), 0
    while not inflate.eof:
        chunk = stream.read(codec.chunk)
        read += len(chunk)
        if not chunk:
            if read:
                yield Damage(start, "the file ends inside a compressed member")
            return None
        try:
            piece = inflate.decompress(chunk)
        except codec.error as error:
            yield Damage(start, str(error))
            return _next_member(stream, start + 1, codec)
        yield piece
    return start + read - len(inflate.unused_data)


def _next_member(stream: BinaryIO, start: int, codec: Codec) -> int | None:
    """The offset of the first member at or after `start` whose first bytes decompress."""
    for offset in _places(stream, start, codec.magic):
        stream.seek(offset)
        try:
            codec.start().decompress(stream.read(codec.chunk))
        except codec.error:
            continue
        return offset
    return None


def _places(stream: BinaryIO, start: int, wanted: bytes) -> Iterator[int]:
    """Where the bytes `wanted` stand at or after `start`."""
    while True:
        stream.seek(start)
        chunk = stream.read(SCAN)
        found = chunk.find(wanted)
        while found >= 0:
            yield start + found
            found = chunk.find(wanted, found + 1)
        if len(chunk) < SCAN:
            return
        start += SCAN - len(wanted) + 1
