"""Writes shards: WebDataset tars of packed sequences, an index of each, and the manifest.

A shard is complete when its tar has its name, because the index is written first. The bytes of
both follow from the sequences alone: no times, owners or host names go in.
"""

import json
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards import storage
from shards.storage import Location

MANIFEST = "manifest.json"
FORMAT = 1
# What `make_manifest` writes besides "resized".
MANIFEST_KEYS = frozenset(
    {"format", "sequences", "seq_len", "image_tokens", "max_images", "tokenizer", "seed"}
    | {"weights", "sources", "stopped_by", "corpora", "shards"}
)
EXTENSIONS = {"jpeg": "jpg", "png": "png", "gif": "gif", "webp": "webp"}

# What the index says of a segment, so that statistics never open a tar.
INDEX_SEGMENT = pa.struct(
    [
        ("source", pa.string()),
        ("licence", pa.string()),
        ("tokens", pa.int32()),  # with the end-of-document token
        ("images", pa.int32()),
    ]
)

# One row per member of the tar, in its order. The last four columns are null in an image's row, so
# that the sum of a column is the shard's.
INDEX = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the member's first byte in the tar
        pa.field("length", pa.int64(), nullable=False),
        ("tokens", pa.int32()),
        ("images", pa.int32()),
        ("documents", pa.list_(pa.string())),  # the id of each segment's document, for look-ups
        ("segments", pa.list_(INDEX_SEGMENT)),
    ]
)

ReadImages = Callable[[list[dict[str, Any]]], list[bytes]]


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of a shard; `corpora` maps a corpus to the sums of `totals`."""

    name: str
    first: int
    sequences: int
    bytes: int
    sha256: str
    index_sha256: str
    corpora: dict[str, dict[str, int]]


def image_member(number: int, part: Mapping[str, Any]) -> str:
    """The member suffix of the `number`-th image of a sequence, as "00.jpg"."""
    return f"{number:02d}.{EXTENSIONS[part['format']]}"


def image_parts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The image parts of a row of SEQUENCE, in reading order."""
    parts = [part for segment in row["segments"] for part in segment["parts"]]
    return [part for part in parts if part["sha256"] is not None]


def sequence_json(position: int, row: Mapping[str, Any]) -> dict[str, Any]:
    """The `.json` member of the sequence: a row of SEQUENCE with its images as member names."""
    numbers = iter(range(len(image_parts(row))))

    def part_json(part: Mapping[str, Any]) -> dict[str, Any]:
        if part["sha256"] is None:
            return {"text": part["text"], "tokens": part["tokens"]}
        member = image_member(next(numbers), part)
        return {"image": member, "sha256": part["sha256"], "tokens": part["tokens"]}

    return {
        "position": position,
        "corpus": row["corpus"],
        "tokens": row["tokens"],
        "images": row["images"],
        "segments": [
            segment | {"parts": [part_json(part) for part in segment["parts"]]}
            for segment in row["segments"]
        ],
    }


def index_columns(sequence: Mapping[str, Any]) -> dict[str, Any]:
    """The last four columns of the index for a sequence as `sequence_json` gives it."""
    return {
        "tokens": sequence["tokens"],
        "images": sequence["images"],
        "documents": [segment["id"] for segment in sequence["segments"]],
        "segments": [_index_segment(segment) for segment in sequence["segments"]],
    }


def _index_segment(segment: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": segment["source"],
        "licence": segment["licence"],
        "tokens": 1 + sum(part["tokens"] for part in segment["parts"]),
        "images": sum("image" in part for part in segment["parts"]),
    }


def write_shard(
    place: Location, sequences: Iterable[tuple[int, dict[str, Any]]], image_bytes: ReadImages
) -> ShardInfo:
    """Writes a tar and, beside it, its index (same name, `.parquet`); reads nothing back.

    `sequences` are positions, one after the other, with rows of SEQUENCE. `image_bytes` is asked
    once a sequence that has images, with its image parts.

    Raises:
        ValueError: there is no sequence, positions are not contiguous, or an image is missing.
    """
    rows: list[dict[str, Any]] = []
    with storage.atomic_path(place) as aside, aside.open("wb") as file:
        out = storage.HashingWriter(file)
        for position, row in sequences:
            if rows and position != rows[-1]["position"] + 1:
                raise ValueError(f"position {position} follows {rows[-1]['position']}")
            rows += _write_sequence(out, position, row, image_bytes)
        if not rows:
            raise ValueError(f"no sequences for {place.name}")
        _write_end(out)
        index = pa.Table.from_pylist(rows, schema=INDEX)
        index_sha256 = storage.write_table(place.with_suffix(".parquet"), index)
    first, last = rows[0]["position"], rows[-1]["position"]
    size, sha256, sums = out.length, out.sha256(), totals(index)
    return ShardInfo(place.name, first, last - first + 1, size, sha256, index_sha256, sums)


def _write_sequence(
    out: storage.HashingWriter, position: int, row: dict[str, Any], image_bytes: ReadImages
) -> list[dict[str, Any]]:
    """Writes the members of one sequence; returns their rows of INDEX."""
    parts = image_parts(row)
    images = image_bytes(parts) if parts else []
    if len(images) != len(parts):
        raise ValueError(f"{len(images)} images for the {len(parts)} of sequence {position}")
    sequence = sequence_json(position, row)
    text = json.dumps(sequence, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    members = [("json", text.encode())]
    members += [(image_member(k, part), images[k]) for k, part in enumerate(parts)]
    rows = []
    for suffix, data in members:
        name = f"{position:09d}.{suffix}"
        offset = _write_member(out, name, data)
        place = {"member": name, "offset": offset, "length": len(data)}
        rows.append({"position": position, "corpus": row["corpus"], **place})
    rows[0] |= index_columns(sequence)
    return rows


def _write_member(out: storage.HashingWriter, name: str, data: bytes) -> int:
    """Writes one tar member; returns the offset of its data."""
    header = tarfile.TarInfo(name)
    header.size = len(data)
    out.write(header.tobuf(tarfile.USTAR_FORMAT))
    offset = out.length
    out.write(data)
    out.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def _write_end(out: storage.HashingWriter) -> None:
    """Two empty blocks, then zeros up to a whole record, as `tar` itself ends."""
    out.write(bytes(2 * tarfile.BLOCKSIZE))
    out.write(bytes(-out.length % tarfile.RECORDSIZE))


TOTALS = ("sequences", "tokens", "images", "documents")


def totals(index: pa.Table) -> dict[str, dict[str, int]]:
    """The sums of each corpus in an index: sequences, tokens, images and documents.

    A document counts once in every sequence that shows a piece of it, as its tokens do, so that
    the sums of shards add up.
    """
    columns = ["corpus", "tokens", "images", "documents"]
    sums: dict[str, dict[str, int]] = {}
    for row in index.select(columns).drop_null().to_pylist():
        corpus = sums.setdefault(row["corpus"], dict.fromkeys(TOTALS, 0))
        corpus["sequences"] += 1
        corpus["tokens"] += row["tokens"]
        corpus["images"] += row["images"]
        corpus["documents"] += len(set(row["documents"]))
    return sums


def sequence_groups(index: pa.Table, sourced: Iterable[str]) -> pa.Array:
    """What each sequence counts for: its corpus, or "corpus/source" in the `sourced` ones.

    The source is that of the sequence's first segment, "" if it has none.
    """
    rows = index.filter(index["tokens"].is_valid()).combine_chunks()
    corpus, segments = rows["corpus"].combine_chunks(), rows["segments"].combine_chunks()
    first = pc.list_flatten(pc.list_slice(segments, 0, 1))
    there = pc.greater(pc.list_value_length(segments), 0)
    blank = pa.repeat(pa.scalar("", pa.string()), len(rows))
    source = pc.replace_with_mask(blank, there, first.field("source"))
    named = pc.binary_join_element_wise(corpus, source, "/", null_handling="replace")
    return pc.if_else(pc.is_in(corpus, pa.array(sourced, pa.string())), named, corpus)


def add_totals(
    shards: Iterable[Mapping[str, Mapping[str, int]]], seq_len: int
) -> dict[str, dict[str, int]]:
    """The manifest's `corpora`: the sums of all shards, and what padding fills up."""
    corpora: dict[str, dict[str, int]] = {}
    for shard in shards:
        for name, sums in shard.items():
            corpus = corpora.setdefault(name, dict.fromkeys(TOTALS, 0))
            for key in TOTALS:
                corpus[key] += sums[key]
    for corpus in corpora.values():
        corpus["padding"] = corpus["sequences"] * seq_len - corpus["tokens"]
    return corpora


def make_manifest(
    shards: Iterable[ShardInfo],
    *,
    seq_len: int,
    image_tokens: int,
    max_images: int,
    tokenizer: Mapping[str, str],
    seed: int,
    weights: Mapping[str, float],
    sources: Mapping[str, Mapping[str, float]] | None = None,
    stopped_by: str | None = None,
    resized: bool = False,
) -> dict[str, Any]:
    """The manifest of a folder of shards, to be written last, as `MANIFEST`.

    `sources` are the weights of the sources of a corpus, where they have some; all segments of a
    sequence are then of one source. `tokenizer` is `tokens.tokenizer_identity`; `resized` says that
    stored images are not the original bytes that their sha256 names.
    """
    infos = sorted(shards, key=lambda info: info.first)
    return {
        "format": FORMAT,
        "sequences": sum(info.sequences for info in infos),
        "seq_len": seq_len,
        "image_tokens": image_tokens,
        "max_images": max_images,
        "tokenizer": dict(tokenizer),
        "seed": seed,
        "weights": dict(weights),
        "sources": {corpus: dict(shares) for corpus, shares in (sources or {}).items()},
        "stopped_by": stopped_by,
        "resized": resized,
        "corpora": add_totals((info.corpora for info in infos), seq_len),
        "shards": [_manifest_line(info) for info in infos],
    }


def _manifest_line(info: ShardInfo) -> dict[str, Any]:
    return {key: value for key, value in asdict(info).items() if key != "corpora"}
