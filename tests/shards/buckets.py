"""Buckets on an S3 server on loopback, for the tests of what reads and writes locations."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from shards import storage
from shards.storage import Remote
from shards.stores import s3
from tests.servers.s3 import S3Server, serve


@pytest.fixture(scope="session")
def _served() -> Iterator[S3Server]:
    with serve() as server:
        yield server


@pytest.fixture
def server(_served: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server without faults; stores that are opened from now on reach it and retry at once."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", _served.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(s3, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(s3, "LONGEST_PAUSE", 0.1)
    _served.clear()
    return _served


@pytest.fixture
def bucket(server: S3Server) -> Remote:
    """An empty bucket of the test's own."""
    name = f"bucket-{uuid.uuid4().hex}"
    server.client.create_bucket(Bucket=name)
    place = storage.location(f"s3://{name}")
    assert isinstance(place, Remote)
    return place


def copy(folder: Path, place: Remote) -> Remote:
    """Puts what is in a folder under `place`."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        storage.write_atomic(place / file.relative_to(folder).as_posix(), file.read_bytes())
    return place
