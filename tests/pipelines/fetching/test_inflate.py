"""Bodies that come compressed: undone up to a limit, by the makers of each coding as oracles."""

import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fetching.inflate import DamagedBodyError, UnknownCodingError, inflate


def bare(body: bytes) -> bytes:
    """Deflate without zlib's head and sum."""
    return zlib.compress(body)[2:-4]


MAKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "deflate ": bare,
    "zstd": zstandard.compress,
    "br": brotli.compress,
}


@given(st.binary(min_size=1, max_size=5000), st.sampled_from(sorted(MAKERS)))
def test_a_body_comes_back(body: bytes, coding: str) -> None:
    assert inflate(MAKERS[coding](body), coding.strip(), 5000) == body


@pytest.mark.parametrize("coding", MAKERS)
def test_no_more_comes_out_than_shows_that_it_is_too_much(coding: str) -> None:
    assert len(inflate(MAKERS[coding](bytes(10**6)), coding.strip(), 1000)) == 1001


@pytest.mark.parametrize("coding", MAKERS)
def test_half_a_body_and_no_body_at_all_are_damaged(coding: str) -> None:
    whole = MAKERS[coding](bytes(range(256)) * 20)
    with pytest.raises(DamagedBodyError):
        inflate(whole[: len(whole) // 2], coding.strip(), 10_000)
    with pytest.raises(DamagedBodyError):
        inflate(b"<html>Not what it says</html>", coding.strip(), 10_000)


@pytest.mark.parametrize("coding", ["compress", "gzip, gzip", "aws-chunked", "zstd, br"])
def test_other_codings_are_not_undone(coding: str) -> None:
    with pytest.raises(UnknownCodingError):
        inflate(b"body", coding, 100)
