"""Checks shards against their manifest, their indexes, their tokenizer and their weights."""

import hashlib
import io
import json
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from tokenizers import Tokenizer

from shards import storage, tokens
from shards.loader import UNREACHABLE, ShardError, open_shards
from shards.storage import Location
from shards.tar import INDEX, MANIFEST, add_totals, index_columns, sequence_groups, totals

LIMIT = 100
# One ruined shard must not hide what is wrong with the others.
LIMIT_A_SHARD = 20

Members = dict[str, tuple[int, int]]  # name to (offset of the data, length)


@dataclass(frozen=True)
class Problem:
    """Something wrong in `file`; `position` where it concerns one sequence."""

    file: str
    position: int | None
    what: str


@dataclass(frozen=True)
class _Rules:
    """What the sequences of a manifest must comply with."""

    manifest: dict[str, Any]
    tokenizer: Tokenizer | None
    images: bool


def tokenizer_of(manifest: Mapping[str, Any]) -> Tokenizer | None:
    """The very tokenizer that a manifest names, or None where it is not to be had here."""
    try:
        identity = tokens.tokenizer_identity(manifest["tokenizer"]["name"])
    except FileNotFoundError:
        return None
    if identity != manifest["tokenizer"]:
        return None
    return tokens.load_tokenizer(identity["name"])


def verify(
    place: str | Location,
    *,
    images: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Problem]:
    """All that is wrong with the shards of a run or a folder, up to 100; none means sound.

    Reads every byte, of an object store's tars once and from front to back. Checked are: sizes
    and sha256 of tars and indexes; that an index tells where plain `tarfile` finds each member;
    that positions run on without a gap; the sums of tokens and images in each sequence, texts
    counted again where `tokenizer_of` finds the tokenizer; with `images`, that each image decodes
    and, unless the manifest says that images were resized, has the sha256 it is named by; that
    every prefix of the mixture has each corpus within one sequence of its weight; and the
    manifest's totals.

    `progress` is told (shards done, shards in all).

    Raises:
        PermissionError, ConnectionError, TimeoutError: the store cannot be reached.
    """
    return list(islice(_problems(place, images, progress), LIMIT))


def _problems(
    place: str | Location, images: bool, progress: Callable[[int, int], None] | None
) -> Iterator[Problem]:
    try:
        opened = open_shards(place)
    except ShardError as error:
        yield Problem(MANIFEST, None, str(error))
        return
    root, manifest = opened.root, opened.manifest
    rules = _Rules(manifest, tokenizer_of(manifest), images)
    shards = manifest["shards"]
    yield from _folder_problems(root, shards)
    indexes = []
    for number, shard in enumerate(shards, 1):
        index, problems = _read_index(root, shard)
        indexes.append(index)
        yield from problems
        yield from islice(_shard_problems(root, shard, index, rules), LIMIT_A_SHARD)
        if progress is not None:
            progress(number, len(shards))
    yield from _mixture_problems(manifest, [index for index in indexes if index is not None])


def _folder_problems(root: Location, shards: list[dict[str, Any]]) -> Iterator[Problem]:
    """Shards whose numbers or first positions leave a gap, and tars that nobody names."""
    position = 0
    for number, shard in enumerate(shards):
        if not shard["name"].endswith(f"-{number:05d}.tar"):
            yield Problem(shard["name"], None, f"is shard {number} in {MANIFEST}")
        if shard["first"] != position:
            what = f"begins at position {shard['first']}, the shards before it end at {position}"
            yield Problem(shard["name"], None, what)
        position = shard["first"] + shard["sequences"]
    for path in storage.files(root, ".tar"):
        if path.name not in {shard["name"] for shard in shards}:
            yield Problem(path.name, None, f"is not in {MANIFEST}")


def _read_index(root: Location, shard: dict[str, Any]) -> tuple[pa.Table | None, list[Problem]]:
    path = (root / shard["name"]).with_suffix(".parquet")
    try:
        sha256 = storage.sha256_file(path)
        table = storage.read_table(path).cast(INDEX)
    except UNREACHABLE:
        raise
    except (OSError, ValueError) as error:
        return None, [Problem(path.name, None, f"cannot be read: {error}")]
    if sha256 != shard["index_sha256"]:
        return table, [Problem(path.name, None, f"has sha256 {sha256}, not {MANIFEST}'s")]
    return table, []


def _shard_problems(
    root: Location, shard: dict[str, Any], index: pa.Table | None, rules: _Rules
) -> Iterator[Problem]:
    place = root / shard["name"]
    if not storage.exists(place):
        yield Problem(place.name, None, "is missing")
        return
    with _on_disk(place) as path:
        yield from _tar_problems(path, shard, index, rules)


@contextmanager
def _on_disk(place: Location) -> Iterator[Path]:
    """A file as a local one: of a store's, a copy, because each member is read by itself."""
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="mixwright-") as folder:
        copy = Path(folder, place.name)
        with storage.open_stream(place) as stream, copy.open("wb") as file:
            shutil.copyfileobj(stream, file, storage.BLOCK)
        yield copy


def _tar_problems(
    path: Path, shard: dict[str, Any], index: pa.Table | None, rules: _Rules
) -> Iterator[Problem]:
    yield from _file_problems(path, shard)
    members, error = _tar_members(path)
    if error is not None:
        yield Problem(path.name, None, error)
    if index is not None:
        rows = index.to_pylist()
        yield from _index_problems(path.name, rows, members)
        yield from _position_problems(path.name, rows, shard)
        yield from _content_problems(path, rows, members, rules)


def _content_problems(
    path: Path, rows: list[dict[str, Any]], members: Members, rules: _Rules
) -> Iterator[Problem]:
    file = storage.RangeReader(path)
    for group in _sequences(rows):
        if all(row["member"] in members for row in group):
            data = {row["member"]: file.read(*members[row["member"]]) for row in group}
            for what in _sequence_problems(group, data, rules):
                yield Problem(path.name, group[0]["position"], what)


def _file_problems(path: Path, shard: dict[str, Any]) -> Iterator[Problem]:
    size = path.stat().st_size
    if size != shard["bytes"]:
        yield Problem(path.name, None, f"has {size} bytes, {MANIFEST} says {shard['bytes']}")
    sha256 = storage.sha256_file(path)
    if sha256 != shard["sha256"]:
        yield Problem(path.name, None, f"has sha256 {sha256}, {MANIFEST} says {shard['sha256']}")


def _tar_members(path: Path) -> tuple[Members, str | None]:
    """The members that lie whole in a tar, and why it could not be read to its end."""
    members: Members = {}
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.offset_data + member.size <= size:
                    members[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        return members, f"is no whole tar: {error}"
    return members, None


def _index_problems(name: str, rows: list[dict[str, Any]], members: Members) -> Iterator[Problem]:
    for row in rows:
        place = members.get(row["member"])
        if place is None:
            yield Problem(name, row["position"], f"has no member {row['member']}")
        elif place != (row["offset"], row["length"]):
            what = f"has {row['member']} at {place}, its index says {row['offset'], row['length']}"
            yield Problem(name, row["position"], what)
    for member in members.keys() - {row["member"] for row in rows}:
        yield Problem(name, None, f"has {member}, which is not in its index")


def _position_problems(
    name: str, rows: list[dict[str, Any]], shard: dict[str, Any]
) -> Iterator[Problem]:
    """Where the positions of an index are not `first`, `first` + 1, ... to the shard's end."""
    found = [group[0]["position"] for group in _sequences(rows)]
    due = list(range(shard["first"], shard["first"] + shard["sequences"]))
    if found != due:
        wrong = next((a for a, b in zip(found, due, strict=False) if a != b), None)
        what = f"has {len(found)} positions from {found[:1]}, not {len(due)} from {due[:1]}"
        yield Problem(name, wrong, what)


def _sequences(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows of an index by sequence, the row of its .json first."""
    group: list[dict[str, Any]] = []
    for row in rows:
        if group and row["member"].endswith(".json"):
            yield group
            group = []
        group.append(row)
    if group:
        yield group


def _sequence_problems(
    rows: list[dict[str, Any]], data: Mapping[str, bytes], rules: _Rules
) -> Iterator[str]:
    row = rows[0]
    position = row["position"]
    prefix = f"{position:09d}."
    images = {r["member"].removeprefix(prefix): data[r["member"]] for r in rows[1:]}
    try:
        sequence = json.loads(data[row["member"]])
        parts = [part for segment in sequence["segments"] for part in segment["parts"]]
        yield from _row_problems(sequence, row)
        yield from _count_problems(sequence, parts, rules)
        yield from _image_problems(parts, images, rules)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        yield f"{row['member']} is not the JSON of a sequence: {error!r}"


def _row_problems(sequence: dict[str, Any], row: dict[str, Any]) -> Iterator[str]:
    for key in ("position", "corpus", "tokens", "images"):
        if sequence[key] != row[key]:
            yield f"says {key} {sequence[key]!r}, its index {row[key]!r}"
    found = index_columns(sequence)
    for key in ("documents", "segments"):
        if found[key] != row[key]:
            yield f"has other {key} than its index"


def _count_problems(
    sequence: dict[str, Any], parts: list[dict[str, Any]], rules: _Rules
) -> Iterator[str]:
    count = len(sequence["segments"]) + sum(part["tokens"] for part in parts)
    images = [part for part in parts if "image" in part]
    for key, found in (("tokens", count), ("images", len(images))):
        if sequence[key] != found:
            yield f"says {key} {sequence[key]}, its parts have {found}"
    for key, most in (("tokens", "seq_len"), ("images", "max_images")):
        if sequence[key] > rules.manifest[most]:
            yield f"has {sequence[key]} {key}, {most} is {rules.manifest[most]}"
    if any(part["tokens"] != rules.manifest["image_tokens"] for part in images):
        yield f"has an image that is not {rules.manifest['image_tokens']} tokens"
    if rules.tokenizer is not None:
        yield from _text_problems([part for part in parts if "text" in part], rules.tokenizer)


def _text_problems(parts: list[dict[str, Any]], tokenizer: Tokenizer) -> Iterator[str]:
    counts = tokens.count_tokens(tokenizer, [part["text"] for part in parts])
    for part, count in zip(parts, counts.tolist(), strict=True):
        if part["tokens"] != count:
            yield f"says {part['tokens']} tokens for {part['text'][:40]!r}, which has {count}"


def _image_problems(
    parts: list[dict[str, Any]], images: dict[str, bytes], rules: _Rules
) -> Iterator[str]:
    named = {part["image"]: part["sha256"] for part in parts if "image" in part}
    for name in named.keys() - images.keys():
        yield f"has no image {name}"
    for name in images.keys() - named.keys():
        yield f"has an image {name} that no part shows"
    if rules.images:
        for name in sorted(named.keys() & images.keys()):
            yield from _pixel_problems(name, named[name], images[name], rules)


def _pixel_problems(name: str, sha256: str, data: bytes, rules: _Rules) -> Iterator[str]:
    resized = rules.manifest.get("resized", False)
    if not resized and hashlib.sha256(data).hexdigest() != sha256:
        yield f"image {name} is not the original that its sha256 names"
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:  # Pillow's decoders raise many kinds for a bad file
        yield f"image {name} cannot be decoded: {error}"


def _mixture_problems(manifest: dict[str, Any], indexes: list[pa.Table]) -> Iterator[Problem]:
    """The totals and the ratio; a missing index has been reported, and makes both unknowable."""
    shards = manifest["shards"]
    if manifest["sequences"] != sum(shard["sequences"] for shard in shards):
        yield Problem(MANIFEST, None, f"says {manifest['sequences']} sequences, its shards do not")
    if len(indexes) < len(shards):
        return
    found = add_totals(map(totals, indexes), manifest["seq_len"])
    for corpus in sorted(found.keys() | manifest["corpora"].keys()):
        said, sums = manifest["corpora"].get(corpus), found.get(corpus)
        if said != sums:
            yield Problem(MANIFEST, None, f"says {said} of {corpus}, the indexes {sums}")
    sources = manifest["sources"]
    groups = [group for index in indexes for group in sequence_groups(index, sources).to_pylist()]
    corpora = [group.partition("/")[0] for group in groups]
    yield from _ratio_problems(manifest["weights"], corpora)
    for corpus, weights in sources.items():
        shares = {f"{corpus}/{source}": weight for source, weight in weights.items()}
        mine = [g for g, found in zip(groups, corpora, strict=True) if found == corpus]
        yield from _ratio_problems(shares, mine)


def _ratio_problems(weights: dict[str, float], names: list[str]) -> Iterator[Problem]:
    """The first prefix at which a corpus, or a source, is more than one sequence off its weight."""
    mixture, lengths = np.array(names, object), np.arange(1, len(names) + 1)
    for name in sorted(set(weights) | set(names)):
        due = lengths * (weights.get(name, 0) / sum(weights.values()))
        off = np.abs(np.cumsum(mixture == name) - due)
        wrong = np.flatnonzero(off > 1 + 1e-6)
        if len(wrong):
            what = f"has {name} {off[wrong[0]]:.2f} sequences off its weight in this prefix"
            yield Problem(MANIFEST, int(wrong[0]), what)
