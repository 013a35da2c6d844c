"""Undoing the compression of bodies that come compressed although none was asked for."""

import zlib

import pyarrow as pa

CODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "zstd": "zstd", "br": "brotli"}


class DamagedBodyError(Exception):
    """A body that is cut short, or that its coding could not have made."""


class UnknownCodingError(Exception):
    """A Content-Encoding that is not undone."""


def inflate(body: bytes, coding: str, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a body of some Content-Encoding (RFC 9110, section 8.4.1).

    Raises DamagedBodyError, and UnknownCodingError, also for one coding on top of another.
    """
    if coding not in CODINGS:
        raise UnknownCodingError(coding)
    try:
        if coding in ("zstd", "br"):
            with pa.CompressedInputStream(pa.BufferReader(body), CODINGS[coding]) as stream:
                return bytes(stream.read(limit + 1))
        return _deflated(body, limit)
    except (zlib.error, OSError) as error:
        raise DamagedBodyError(coding) from error


def _deflated(body: bytes, limit: int) -> bytes:
    """Of gzip, zlib, or the bare deflate that some servers send as "deflate"."""
    wrapped = body[:2] == b"\x1f\x8b" or (
        body[:1] == b"\x78" and int.from_bytes(body[:2]) % 31 == 0
    )
    stream = zlib.decompressobj(wbits=47 if wrapped else -15)
    data = stream.decompress(body, limit + 1)
    if len(data) <= limit and not stream.eof:
        raise DamagedBodyError("cut short")
    return data
