"""What crosses a shuffle: Arrow tables of keys, hashes and places, never bytes of images."""

from typing import Any

import pyarrow as pa
from apache_beam import coders

ZSTD = pa.Codec("zstd", compression_level=1)


class TableCoder(coders.Coder):  # type: ignore[misc]
    """A table as a compressed Arrow stream, of the rows of a slice and not all it was cut from.

    Many pieces are of a few rows; their schema alone is a kilobyte or two, which compresses well.

    Raises:
        TypeError: at encoding, if a column holds binary data. Bytes of images go from the network
            into the image store and are read where they are needed; they have no business in a
            shuffle. Of a fixed width, as thumbs of 256 bytes are, they are a measure like any.
    """

    def encode(self, value: pa.Table) -> bytes:
        """The table's schema and rows."""
        for field in value.schema:
            if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
                raise TypeError(f"column {field.name!r} holds bytes, which must not be shuffled")
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_table(value)
        plain = sink.getvalue()
        return b"".join([plain.size.to_bytes(8, "little"), ZSTD.compress(plain, asbytes=True)])

    def decode(self, encoded: bytes) -> pa.Table:
        """The table again."""
        size = int.from_bytes(encoded[:8], "little")
        return pa.ipc.open_stream(ZSTD.decompress(encoded[8:], size)).read_all()

    def is_deterministic(self) -> bool:
        """Equal tables may be cut into chunks differently; no table is ever a key."""
        return False

    def to_type_hint(self) -> Any:
        """The type that this coder is registered for."""
        return pa.Table


coders.registry.register_coder(pa.Table, TableCoder)
