"""Object stores, each with the same few operations; `shards.storage` is their only user."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """One bucket; keys have no leading slash."""

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `start`, or all of them.

        Raises:
            FileNotFoundError: there is no such object.
            EOFError: the object ends before.
        """

    def size(self, key: str) -> int:
        """The object's length in bytes; raises FileNotFoundError."""

    def version(self, key: str) -> str:
        """What changes whenever the object does; raises FileNotFoundError."""

    def put(self, key: str, file: Path) -> None:
        """Make the object from a local file, whole or not at all."""

    def put_bytes(self, key: str, data: bytes) -> None:
        """Make the object from bytes."""

    def copy(self, source: str, key: str) -> None:
        """Make an object of the bucket's from another, of at most 5 GB, inside of the store."""

    def names(self, folder: str) -> list[str]:
        """The names of objects and folders directly below, sorted."""

    def keys(self, folder: str) -> Iterator[str]:
        """Every key below, sorted."""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
