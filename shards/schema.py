"""The data model: every Arrow schema that crosses a stage, and helpers to build and read it.

A document is an ordered list of parts; a part is a text or a reference to an image. A caption
pair is ``[image, text]``, a page ``[text, image, text, ...]``, prose ``[text]``. Image bytes are
never in a document: a part names an image by the sha256 of its original bytes, and the image
store (`shards.images`) turns that name into one range read.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

PART = pa.struct(
    [
        ("text", pa.string()),  # null for an image part
        ("image", pa.string()),  # sha256 of the original bytes, hex; null until downloaded
        ("url", pa.string()),  # where the image came from; null for a text part
        ("alt", pa.string()),
        ("score", pa.float32()),  # image-text similarity of an image part, null until scored
        # Of the bytes that the input says are at the URL: a sha256 or an md5, 64 or 32 hex digits.
        # Null where it says nothing, and once they are downloaded.
        ("expected_hash", pa.string()),
    ]
)

SCORES = pa.map_(pa.string(), pa.float32())

DOCUMENT = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("parts", pa.list_(PART), nullable=False),
        ("source", pa.string()),
        ("snapshot", pa.string()),  # the crawl or dump of the source, such as "CC-MAIN-2024-10"
        ("url", pa.string()),
        ("licence", pa.string()),
        ("language", pa.string()),
        ("scores", SCORES),
        ("extra", pa.string()),  # further columns of the table it was read from: a JSON object
        # Where it was read: a WARC and the record's byte offset, or a table and its row.
        ("provenance", pa.struct([("file", pa.string()), ("position", pa.int64())])),
    ]
)

THUMB = 16  # pixels of a side of a picture in small

# One row for every URL that was asked for. `reason` says why there is no image; rows without one
# are the index of the image store.
IMAGE = pa.schema(
    [
        pa.field("url", pa.string(), nullable=False),
        ("reason", pa.string()),
        ("sha256", pa.string()),
        ("md5", pa.string()),
        ("phash", pa.string()),  # 64-bit perceptual hash, 16 hex digits
        ("tint", pa.string()),  # Cb and Cr of the four quarters, 16 hex digits
        ("thumb", pa.binary(THUMB**2)),  # levels of grey, squashed, row by row
        ("width", pa.int32()),  # pixels, of the original
        ("height", pa.int32()),
        ("format", pa.string()),  # "jpeg", "png", "gif", "webp", as it is stored
        ("original_format", pa.string()),
        ("animated", pa.bool_()),  # it has more frames than the first, which counts
        # Measures of `shards.pixels`.
        ("contrast", pa.float32()),
        ("uniformity", pa.float32()),
        ("sharpness", pa.float32()),
        ("text_share", pa.float32()),
        # What its metadata say (`shards.rights`).
        ("creator", pa.string()),
        ("copyright", pa.string()),
        ("licence", pa.string()),
        # Path below the folder of the stage that downloaded it; of a picture that was adopted the
        # absolute path or address of the tar that it stays in.
        ("tar", pa.string()),
        ("offset", pa.int64()),  # of the first byte of the stored image inside the tar
        ("length", pa.int64()),
    ]
)

# What the step `nsfw` leaves: a row for every URL of a part's pictures.
NSFW = pa.schema([("url", pa.string()), ("nsfw", pa.float32())])

# What an image filter sees: the index row of an image, the part that shows it, and its scores.
IMAGE_PART = pa.schema(
    [
        *IMAGE,
        ("alt", pa.string()),
        ("score", pa.float32()),
        ("nsfw", pa.float32()),  # null where no step has scored it
    ]
)

# One row per record that a stage dropped; `content` only for the bounded sample of the report.
DROP = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),  # "document" or "image"
        pa.field("reason", pa.string(), nullable=False),
        ("kind", pa.string()),  # "dropped" or "error"; "reported" of a record that was kept
        ("url", pa.string()),
        ("detail", pa.string()),  # the score that failed, the keeper of a duplicate, an error text
        ("content", pa.string()),
        ("image", pa.string()),
    ]
)

# One part of one document inside a packed sequence; `tokens` is what it costs there.
PACKED_PART = pa.struct(
    [
        ("text", pa.string()),
        ("sha256", pa.string()),
        ("format", pa.string()),
        ("tar", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("tokens", pa.int32()),
    ]
)
SEGMENT = pa.struct(
    [
        ("id", pa.string()),
        ("first_part", pa.int32()),  # index in the document of the segment's first part
        ("source", pa.string()),
        ("url", pa.string()),
        ("licence", pa.string()),
        ("extra", pa.string()),
        ("parts", pa.list_(PACKED_PART)),
    ]
)
SEQUENCE = pa.schema(
    [
        ("corpus", pa.string()),
        ("tokens", pa.int32()),
        ("images", pa.int32()),
        ("segments", pa.list_(SEGMENT)),
    ]
)


def digest(*values: str | bytes) -> str:
    """A 128-bit content hash of `values` in order, as 32 hex digits."""
    state = hashlib.blake2b(digest_size=16)
    for value in values:
        data = value.encode() if isinstance(value, str) else value
        # The length first, so that ("ab", "c") and ("a", "bc") differ.
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


NO_PART = dict.fromkeys((field.name for field in PART), None)


def text_part(text: str) -> dict[str, Any]:
    """A text part."""
    return {**NO_PART, "text": text}


def image_part(
    url: str,
    alt: str | None = None,
    sha256: str | None = None,
    expected_hash: str | None = None,
) -> dict[str, Any]:
    """An image part that is known by its URL, and by its bytes once they are downloaded."""
    told = {"image": sha256, "url": url, "alt": alt, "expected_hash": expected_hash}
    return {**NO_PART, **told}


def document(
    source: str,
    url: str | None,
    parts: Sequence[Mapping[str, Any]],
    *,
    licence: str | None = None,
    snapshot: str | None = None,
    extra: str | None = None,
    file: str = "",
    position: int = 0,
) -> dict[str, Any]:
    """A row of `DOCUMENT`; its id hashes the source, the URL and the parts, never a position."""
    content = [
        value
        for part in parts
        for value in (("image", part["url"]) if part["text"] is None else ("text", part["text"]))
    ]
    return {
        "id": digest(source, url or "", *content),
        "parts": list(parts),
        "source": source,
        "snapshot": snapshot,
        "url": url,
        "licence": licence,
        "language": None,
        "scores": [],
        "extra": extra,
        "provenance": {"file": file, "position": position},
    }


def documents(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """A table of `DOCUMENT` from rows made by `document`."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=DOCUMENT)


def flatten_parts(batch: pa.Table) -> tuple[pa.Array, pa.StructArray]:
    """The parts of all documents, end to end, and the row of the document that each belongs to."""
    parts = batch["parts"].combine_chunks()
    return pc.list_parent_indices(parts), pc.list_flatten(parts)


def texts(batch: pa.Table) -> list[str]:
    """The text of each document: its text parts joined by newlines, images left out."""
    rows = batch["parts"].to_pylist()
    return ["\n".join(p["text"] for p in row if p["text"] is not None) for row in rows]


def with_column(batch: pa.Table, name: str, values: Any) -> pa.Table:
    """`batch` with column `name` replaced, cast to the type that its schema says."""
    field = batch.schema.field(name)
    column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
    return batch.set_column(batch.schema.get_field_index(name), field, column.cast(field.type))


def with_score(batch: pa.Table, name: str, values: Iterable[float]) -> pa.Table:
    """`batch` with score `name` of each document set; NaN takes it away, others stay."""
    rows = batch["scores"].to_pylist()
    scores = [
        [(key, old) for key, old in row or [] if key != name]
        + ([(name, float(value))] if value == value else [])
        for row, value in zip(rows, values, strict=True)
    ]
    return with_column(batch, "scores", pa.array(scores, SCORES))


def with_texts(batch: pa.Table, edit: Callable[[list[str]], list[str]]) -> pa.Table:
    """`batch` with the texts of all text parts, end to end, replaced by what `edit` makes of them.

    Shape: `edit` gives as many texts as it is given.
    """
    _, parts = flatten_parts(batch)
    texts = parts.field("text")
    edited = pa.array(edit(texts.drop_null().to_pylist()), pa.string())
    return with_parts(batch, "text", pc.replace_with_mask(texts, texts.is_valid(), edited))


def text_sums(batch: pa.Table, values: Any) -> Any:
    """The sum over each document of one number for each text part; an array of [documents]."""
    owners, parts = flatten_parts(batch)
    owners = owners.filter(parts.field("text").is_valid())
    return np.bincount(np.asarray(owners), values, batch.num_rows)


def with_parts(batch: pa.Table, name: str, values: pa.Array) -> pa.Table:
    """`batch` with field `name` of all its parts, end to end, replaced by `values`."""
    lists = batch["parts"].combine_chunks()
    _, parts = flatten_parts(batch)
    arrays = [values.cast(f.type) if f.name == name else parts.field(f.name) for f in PART]
    offsets = pc.cumulative_sum(pc.list_value_length(lists))
    starts = pa.concat_arrays([pa.array([0], pa.int32()), offsets.cast(pa.int32())])
    changed = pa.StructArray.from_arrays(arrays, fields=list(PART))
    return with_column(batch, "parts", pa.ListArray.from_arrays(starts, changed))
