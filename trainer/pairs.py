"""Image-caption pairs to train a filter network on: where they lie, and which are held out.

Nothing is copied: a pair is a row that names an image's file, or its range in a tar. Pairs come
from the captions corpus of a run, from mixed shards, from WebDataset tars of images and captions
(img2dataset writes such), or from a table of image files.
"""

import csv
import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards import ledger, schema, storage
from shards.images import MEMBER_EXTENSIONS, NOT_DECODABLE, open_image
from shards.loader import shards_folder
from shards.pixels import phash, shrunk
from shards.storage import Location, location
from shards.tar import MANIFEST

PAIR = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),  # an image, or a tar of them
        ("offset", pa.int64()),  # in bytes, of the image in its tar; null: the file is the image
        ("length", pa.int64()),
        pa.field("caption", pa.string(), nullable=False),
        ("source", pa.string()),
        ("sha256", pa.string()),  # of the image
        ("phash", pa.string()),  # 64 bits, 16 hex digits
    ]
)
Row = dict[str, Any]

# Columns of a table, the first that is there.
IMAGE_COLUMNS = ("image", "image_path", "file", "path", "filepath")
CAPTION_COLUMNS = ("caption", "text", "alt")
# Bits of 64 in which the perceptual hashes of two pictures may differ and still count as one:
# rather too many than too few, because a wrongly suspected pair only is not trained on.
SAME_PICTURE = 8
HELD_OUT_SHARE = 10  # one picture in so many, where no source is held out
HELD_OUT_MOST = 5_000  # pictures; an AUC is then sure to about half a point
MISSING, NO_CAPTION, REPEATED = "image_missing", "no_caption", "repeated_pair"


class PairsError(ValueError):
    """Pairs that cannot be read or are too few; the message says what to do."""


@dataclass(frozen=True)
class Found:
    """Pairs in an order of their own, whatever files held them, and what was left out, why."""

    pairs: pa.Table
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Split:
    """Pairs to train on, those held out, and how many resemble these too much for either."""

    train: pa.Table
    held_out: pa.Table
    lookalikes: int

    def sha256(self) -> str:
        """Of what is trained on and what is held out: pictures, captions and sources."""
        columns = ["sha256", "caption", "source"]
        rows = [table.select(columns).to_pylist() for table in (self.train, self.held_out)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def read_pairs(places: Sequence[str]) -> Found:
    """The pairs of runs, shards, tars and tables, each picture and caption once.

    Raises:
        PairsError: a place has no pairs, or not in a form that is known.
    """
    left_out, distinct = Counter[str](), dict[tuple[str, str], Row]()
    for row, reason in _measured([row for place in places for row in _rows(location(place))]):
        if reason is None and (row["sha256"], row["caption"]) in distinct:
            reason = REPEATED
        if reason is None:
            distinct[row["sha256"], row["caption"]] = row
        else:
            left_out[reason] += 1
    if not distinct:
        raise PairsError(f"{', '.join(places)}: no pairs{_why(left_out)}")
    rows = [distinct[key] for key in sorted(distinct, key=lambda key: schema.digest(*key))]
    return Found(pa.Table.from_pylist(rows, schema=PAIR), dict(sorted(left_out.items())))


def _why(left_out: Mapping[str, int]) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    return f"; left out: {counts}" if counts else ""


def read_image(pair: Mapping[str, Any]) -> bytes:
    """The bytes of a pair's image; raises OSError, or EOFError for a tar that was cut since."""
    if pair["offset"] is None:
        return storage.read_bytes(location(pair["file"]))
    return _reader(pair["file"], os.getpid()).read(pair["offset"], pair["length"])


@lru_cache(maxsize=64)
def _reader(file: str, _process: int) -> storage.RangeReader:
    return storage.RangeReader(location(file))


def _measured(rows: list[Row]) -> Iterator[tuple[Row, str | None]]:
    """The rows with the hashes of their image, or with the reason why they are no pair."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_measure, rows)


def _measure(row: Row) -> tuple[Row, str | None]:
    if not (row["caption"] or "").strip():
        return row, NO_CAPTION
    if row.get("phash") is not None:
        return row, None
    try:
        body = read_image(row)
        picture = shrunk(open_image(body))
    except FileNotFoundError:
        return row, MISSING
    except Exception:  # a decoder fed with a stranger's bytes raises anything
        return row, NOT_DECODABLE
    return row | {"sha256": hashlib.sha256(body).hexdigest(), "phash": phash(picture)}, None


# What holds pairs


def _rows(place: Location) -> Iterator[Row]:
    """Rows of PAIR; a null where it is not known yet."""
    if place.suffix == ".tar":
        return _tar_rows(place)
    if place.suffix in (".parquet", ".tsv", ".csv"):
        return _table_rows(place)
    if storage.exists(place / ledger.RUN_FILE):
        return _run_rows(place)
    if storage.exists(shards_folder(place) / MANIFEST):
        return _shard_rows(shards_folder(place))
    if tars := storage.files(place, ".tar"):
        return (row for tar in tars for row in _tar_rows(tar))
    raise PairsError(
        f"{place}: neither a run, nor shards, nor a folder of .tar files, nor a table "
        "(.parquet, .tsv, .csv) of image files and captions"
    )


def _run_rows(run: Location) -> Iterator[Row]:
    """What the last step of a run's captions kept, with the images that the run stored."""
    names = storage.read_json(run / ledger.RUN_FILE)["stages"]
    names = [name for name in names if name.startswith("captions/")]
    done = dict(ledger.stage_folders(run))
    if missing := [name for name in names if name not in done]:
        raise PairsError(f"{run}: {missing[0]} is not done; `mixwright run` goes on with the run")
    documents = [files for name in names if (files := ledger.part_files(done[name], "documents"))]
    stores = [done[name] for name in names if ledger.part_files(done[name], "index")]
    if not documents or not stores:
        raise PairsError(f"{run}: the run has no captions corpus with images")
    for part, index in zip(documents[-1], ledger.part_files(stores[0], "index"), strict=True):
        yield from _part_rows(part, index, stores[0])


def _part_rows(documents: Location, index: Location, store: Location) -> Iterator[Row]:
    columns = ["url", "sha256", "phash", "tar", "offset", "length"]
    images = {row["url"]: row for row in storage.read_table(index, columns).to_pylist()}
    for document in storage.read_table(documents, ["parts", "source"]).to_pylist():
        image = next(images[part["url"]] for part in document["parts"] if part["text"] is None)
        texts = [part["text"] for part in document["parts"] if part["text"] is not None]
        about = {"caption": texts[0], "source": document["source"]}
        yield image | about | {"file": str(store / image["tar"])}


def _shard_rows(root: Location) -> Iterator[Row]:
    """The pairs that are packed in the sequences of the captions corpus."""
    for shard in storage.read_json(root / MANIFEST)["shards"]:
        tar = root / shard["name"]
        columns = ["position", "corpus", "member", "offset", "length", "tokens"]
        members = storage.read_table(tar.with_suffix(".parquet"), columns).to_pylist()
        places = {row["member"]: (row["offset"], row["length"]) for row in members}
        heads = [row for row in members if row["tokens"] and row["corpus"] == "captions"]
        ranges = [(row["offset"], row["length"]) for row in heads]
        for head, body in zip(heads, storage.RangeReader(tar).read_many(ranges), strict=True):
            for segment in json.loads(body)["segments"]:
                yield from _segment_rows(str(tar), segment, f"{head['position']:09d}", places)


def _segment_rows(
    tar: str, segment: Row, sequence: str, places: Mapping[str, tuple[int, int]]
) -> Iterator[Row]:
    """The pair of a segment; a document that was cut between its image and its text has none."""
    images = [part["image"] for part in segment["parts"] if "image" in part]
    texts = [part["text"] for part in segment["parts"] if "text" in part]
    if images and texts:
        offset, length = places[f"{sequence}.{images[0]}"]
        place = {"file": tar, "offset": offset, "length": length}
        yield place | {"caption": texts[0], "source": segment["source"]}


def _tar_rows(place: Location) -> Iterator[Row]:
    """The samples of a WebDataset tar: an image with its `.txt`, or the caption of its `.json`."""
    try:
        with storage.open_stream(place) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for _, members in groupby(filter(tarfile.TarInfo.isreg, tar), key=_sample):
                yield from _sample_rows(place, tar, list(members))
    except tarfile.ReadError as error:
        raise PairsError(f"{place}: no whole, uncompressed tar ({error})") from error


def _sample(member: tarfile.TarInfo) -> str:
    """WebDataset's name of a sample: the path up to the first dot of its last part."""
    folder, _, name = member.name.rpartition("/")
    return f"{folder}/{name.split('.')[0]}"


def _sample_rows(
    place: Location, tar: tarfile.TarFile, members: list[tarfile.TarInfo]
) -> Iterator[Row]:
    by_kind = {member.name.rpartition(".")[2].lower(): member for member in members}
    image = next((by_kind[kind] for kind in by_kind if kind in MEMBER_EXTENSIONS), None)
    if image is not None:
        facts = _facts(tar, by_kind.get("json"))
        caption = _text(tar, by_kind["txt"]) if "txt" in by_kind else facts.get("caption")
        source = facts.get("source") or place.parent.name
        where = {"file": str(place), "offset": image.offset_data, "length": image.size}
        yield where | {"caption": caption, "source": source}


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = tar.extractfile(member)
    assert file is not None, "only regular files are asked for"
    return file.read().decode("utf-8", "replace").strip()


def _facts(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> dict[str, Any]:
    try:
        facts = json.loads(_text(tar, member)) if member else {}
    except ValueError:  # a sample of another maker, whose .json is none
        facts = {}
    return facts if isinstance(facts, dict) else {}


def _table_rows(place: Location) -> Iterator[Row]:
    """The rows of a table of image files, whose paths begin at the table's folder."""
    rows = _parquet(place) if place.suffix == ".parquet" else _lines(place)
    columns = list(rows[0]) if rows else []
    image = _column(place, columns, IMAGE_COLUMNS, "image files")
    caption = _column(place, columns, CAPTION_COLUMNS, "captions")
    for row in rows:
        file = str(place.parent / str(row[image]))
        source = row.get("source") or place.parent.name
        nothing = dict.fromkeys(("offset", "length"))
        yield {"file": file, "caption": row[caption], "source": source, **nothing}


def _parquet(place: Location) -> list[Row]:
    known = {*IMAGE_COLUMNS, *CAPTION_COLUMNS, "source"}
    columns = storage.read_schema(place).names
    rows: list[Row] = storage.read_table(place, [c for c in columns if c in known]).to_pylist()
    return rows


def _lines(place: Location) -> list[Row]:
    """The rows of a table as text; quotes mean something in .csv alone."""
    text = io.StringIO(storage.read_bytes(place).decode("utf-8-sig", "replace"), newline="")
    if place.suffix == ".csv":
        return list(csv.DictReader(text))
    return list(csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE))


def _column(place: Location, columns: Sequence[str], names: Iterable[str], what: str) -> str:
    if found := next((name for name in names if name in columns), None):
        return found
    has = ", ".join(columns) or "nothing"
    raise PairsError(f"{place}: no column of {what} ({', '.join(names)}); the table has {has}")


# What is held out


def split(found: pa.Table, held_out: Sequence[str] = ()) -> Split:
    """Pairs to train on and pairs to measure on; no picture of these looks like one of those.

    Held out are the sources of which a name in `held_out` is a part, or without names one picture
    in HELD_OUT_SHARE by its hash, HELD_OUT_MOST at most. A picture is measured on once.

    Raises:
        PairsError: a name is no source's, or nothing is left to train or to measure on.
    """
    chosen = _of_sources(found, held_out) if held_out else _of_hashes(found)
    known, tested = found.filter(pc.invert(chosen)), found.filter(chosen)
    alike = resembles(_hashes(known), _hashes(tested))
    train = known.filter(pa.array(~alike))
    if min(train.num_rows, tested.num_rows) < 2:
        raise PairsError(
            f"{train.num_rows} pairs to train on and {tested.num_rows} held out of "
            f"{found.num_rows}: too few"
        )
    return Split(train, _first_of_each_picture(tested), int(alike.sum()))


def _of_sources(found: pa.Table, names: Sequence[str]) -> pa.Array:
    every = [source or "" for source in found["source"].to_pylist()]
    for name in names:
        if not any(name in source for source in every):
            known = ", ".join(sorted(set(every)))
            raise PairsError(f"--held-out {name}: no such source; there are {known}")
    return pa.array([any(name in source for name in names) for source in every])


def _of_hashes(found: pa.Table) -> pa.Array:
    pictures = sorted(set(found["sha256"].to_pylist()), key=lambda name: schema.digest(name))
    count = min(len(pictures) // HELD_OUT_SHARE, HELD_OUT_MOST)
    return pc.is_in(found["sha256"], pa.array(pictures[:count], pa.string()))


def _first_of_each_picture(pairs: pa.Table) -> pa.Table:
    names = pairs["sha256"].to_pylist()
    first = {name: row for row, name in reversed(list(enumerate(names)))}
    return pairs.take(pa.array(sorted(first.values()), pa.int64()))


def _hashes(pairs: pa.Table) -> NDArray[np.uint64]:
    return np.array([int(name, 16) for name in pairs["phash"].to_pylist()], np.uint64)


def resembles(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64], most: int = SAME_PICTURE
) -> NDArray[np.bool_]:
    """Which perceptual hashes are within `most` bits of one of `others`: bool [len(hashes)]."""
    found = np.zeros(len(hashes), bool)
    step = max(1, 2**23 // max(1, len(others)))
    for start in range(0, len(hashes) if len(others) else 0, step):
        part = hashes[start : start + step, None]
        found[start : start + step] = (np.bitwise_count(part ^ others) <= most).any(1)
    return found
