"""Reads shards by global position.

    shards = open_shards("runs/mm1/shards")  # or "s3://bucket/run/shards"
    shards[41].segments
    for sequence in shards.read(rank=3, world=8, start=120_000): ...

A position is a place in the mixture, so that ranks, workers and resumes only decide who reads
which position, and the state of a reader is one integer. Each sequence is one range read.

The tars are plain WebDataset, and other readers see the same sequences:

- `webdataset`: `wds.WebDataset(str(tar))` gives samples with `__key__` (the position in nine
  digits), `json` and `00.jpg`, ... as bytes.
- Hugging Face `datasets` takes its columns from the first sequences and refuses when these have
  different images, as a mixture has. Name the columns yourself, one for each image number and
  extension that may occur; a sequence without that image has None there::

    columns = {"__key__": Value("string"), "__url__": Value("string"), "json": Json()}
    for k, ext in itertools.product(range(max_images), ("jpg", "png", "gif", "webp")):
        columns[f"{k:02d}.{ext}"] = Image(decode=False)
    load_dataset("webdataset", data_files=..., features=Features(columns), streaming=True)

  With `decode=False` an image is {"path", "bytes"}; leave it out for PIL images.
"""

import json
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from shards import ledger, storage
from shards.storage import Location
from shards.tar import FORMAT, MANIFEST, MANIFEST_KEYS

# Readers walk positions in order and need one shard at a time; shuffled access needs more.
OPEN_SHARDS = 16
AHEAD = 8  # sequences of a store under way while a reader works on the one before
# A store that cannot be asked says nothing of the shards in it.
UNREACHABLE = (PermissionError, ConnectionError, TimeoutError)
AGAIN = "copy it again from where it was written, or run the mix again"

Result = TypeVar("Result")


class ShardError(Exception):
    """Shards that cannot be read; the message names the file and what to do."""


@dataclass(frozen=True)
class Sequence:
    """One packed sequence: its `.json` member, and its images by member suffix ("00.jpg")."""

    position: int
    corpus: str
    tokens: int
    segments: list[dict[str, Any]]
    images: dict[str, bytes]


@dataclass(frozen=True)
class _Shard:
    """An open tar and its index; sequence k has the members `starts[k]` to `starts[k + 1]`."""

    path: Location
    file: storage.RangeReader
    members: list[str]
    offsets: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray


def positions_of(total: int, *, rank: int = 0, world: int = 1, start: int = 0) -> range:
    """The positions in [start, total) that one of `world` readers reads: every `world`-th.

    All readers together read each position once, whatever `world` is; to resume with another
    number of readers, start them all at the first position that was not read.

    Raises:
        ValueError: `rank` is not in [0, world), or `start` is negative.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}: ranks go from 0 to {world - 1}")
    if start < 0:
        raise ValueError(f"start is {start}: positions begin at 0")
    return range(start + rank, total, world)


class Shards:
    """The sequences of a folder of shards, by position; made by `open_shards`.

    Tars are opened when first read, in each process by itself: an instance may be pickled and
    forked, as torch's DataLoader does.
    """

    def __init__(self, root: Location, manifest: dict[str, Any]) -> None:
        self.root = root
        self.manifest = manifest
        self._firsts = [shard["first"] for shard in manifest["shards"]]
        self._shard = lru_cache(OPEN_SHARDS)(partial(_open_shard, root, manifest["shards"]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards, (self.root, self.manifest)

    def __len__(self) -> int:
        return int(self.manifest["sequences"])

    def __getitem__(self, position: int) -> Sequence:
        """The sequence at a position from 0.

        Raises:
            IndexError: there is no such position.
            ShardError: its shard is missing or damaged.
            PermissionError, ConnectionError, TimeoutError: its store cannot be reached.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} sequences")
        number = self._number(position)
        return _read(self._shard(number), position, position - self._firsts[number])

    def _number(self, position: int) -> int:
        return bisect_right(self._firsts, position) - 1

    def read(self, *, rank: int = 0, world: int = 1, start: int = 0) -> Iterator[Sequence]:
        """The sequences at `positions_of`, one after the other."""
        positions = positions_of(len(self), rank=rank, world=world, start=start)
        return self.ahead(self.__getitem__, positions)

    def ahead(self, work: Callable[[int], Result], positions: Iterable[int]) -> Iterator[Result]:
        """`work`, which reads the sequence at a position, of every position, in order.

        Of shards in an object store the next few are under way in threads, so that a reader
        does not wait for each answer.
        """
        if isinstance(self.root, Path):
            yield from map(work, positions)
            return
        pool = ThreadPoolExecutor(AHEAD + 1)
        try:
            yield from self._under_way(pool, work, positions)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _under_way(
        self, pool: ThreadPoolExecutor, work: Callable[[int], Result], positions: Iterable[int]
    ) -> Iterator[Result]:
        waiting: deque[Future[Result]] = deque()
        shard, opening = -1, Future[_Shard]()
        for position in positions:
            if (number := self._number(position)) != shard:
                # By one thread, for which the others wait: an index is several requests.
                shard, opening = number, pool.submit(self._shard, number)
            waiting.append(pool.submit(_after, opening, work, position))
            if len(waiting) == AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _after(opening: Future[_Shard], work: Callable[[int], Result], position: int) -> Result:
    opening.result()
    return work(position)


def shards_folder(place: str | Location) -> Location:
    """Where the tars are: in a folder of shards itself, or in the current one of a run."""
    home = storage.location(place)
    if storage.exists(home / ledger.RUN_FILE):
        home = home / "shards"
    about = ledger.about(home)
    return home / about["folder"] if about else home


def open_shards(place: str | Location) -> Shards:
    """The shards of a run (`runs/demo` or `runs/demo/shards`) or of a folder; reads their manifest.

    Raises:
        ShardError: there is no manifest, or it has another format.
    """
    root = shards_folder(place)
    return Shards(root, _read_manifest(root))


def _read_manifest(root: Location) -> dict[str, Any]:
    path = root / MANIFEST
    try:
        manifest: dict[str, Any] = storage.read_json(path)
        found = manifest["format"]
    except FileNotFoundError as error:
        raise ShardError(
            f"{path} is missing, and it is written when the mix is complete: run the mix to its "
            "end, or give the folder that holds it"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{path} is no manifest of shards ({error!r}): {AGAIN}") from error
    if found != FORMAT:
        raise ShardError(
            f"{path} has format {found!r} and this version reads {FORMAT}: use the version of "
            "mixwright that wrote it, or run the mix again"
        )
    missing = MANIFEST_KEYS - manifest.keys()
    if missing:
        raise ShardError(f"{path} has no {', '.join(sorted(missing))}: {AGAIN}")
    return manifest


def _open_shard(root: Location, shards: list[dict[str, Any]], number: int) -> _Shard:
    """Opens a tar and its index, and compares both with the manifest."""
    line = shards[number]
    path = root / line["name"]
    columns = ["position", "member", "offset", "length", "tokens"]
    try:
        file = storage.RangeReader(path)
        index = storage.read_table(path.with_suffix(".parquet"), columns)
    except UNREACHABLE:
        raise
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} or its index cannot be read ({error}): {AGAIN}") from error
    # Only the row of a sequence's .json has a number of tokens, and it is the sequence's first.
    starts = np.flatnonzero(index["tokens"].is_valid().to_numpy())
    positions = index["position"].to_numpy()[starts]
    due = np.arange(line["first"], line["first"] + line["sequences"])
    if file.size != line["bytes"]:
        raise ShardError(
            f"{path} has {file.size} bytes, its manifest says {line['bytes']}: {AGAIN}"
        )
    if not np.array_equal(positions, due):
        raise ShardError(
            f"the index of {path} has {len(positions)} sequences from {positions[:1].tolist()}, "
            f"its manifest says {len(due)} from {due[:1].tolist()}: {AGAIN}"
        )
    ends = np.append(starts, index.num_rows)
    offsets, lengths = index["offset"].to_numpy(), index["length"].to_numpy()
    return _Shard(path, file, index["member"].to_pylist(), offsets, lengths, ends)


def _read(shard: _Shard, position: int, row: int) -> Sequence:
    """One range read from the sequence's first member to its last, cut into members."""
    first, end = shard.starts[row], shard.starts[row + 1]
    offsets, lengths = shard.offsets[first:end].tolist(), shard.lengths[first:end].tolist()
    begin = offsets[0]
    prefix = f"{position:09d}."
    try:
        data = shard.file.read(begin, offsets[-1] + lengths[-1] - begin)
        members = {
            name.removeprefix(prefix): data[offset - begin : offset - begin + length]
            for name, offset, length in zip(shard.members[first:end], offsets, lengths, strict=True)
        }
        sequence = json.loads(members.pop("json"))
        fields = sequence["corpus"], sequence["tokens"], sequence["segments"]
        if sequence["position"] != position:
            raise ValueError(f"it says that it is position {sequence['position']}")
    except UNREACHABLE:
        raise
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ShardError(
            f"{shard.path} is damaged at position {position} ({error!r}): {AGAIN}; "
            "`mixwright verify` lists all that is wrong"
        ) from error
    return Sequence(position, *fields, members)
