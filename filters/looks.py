"""When two pictures are one: by perceptual hash, and what a hash of shapes in grey cannot tell.

Two pictures are alike if their 64-bit hashes differ in few bits (imagehash's `phash`), and if their
proportions, brightness and colours agree as far as a new encoding, another size or a slight crop
leaves them. A grey picture has no colours that could differ. Those that pass are laid over each
other in small (`filters.registration`): clip art, signs and screenshots have little for a hash to
go by, and different ones are few bits apart. `benchmarks/image_dedupe.py` measures what this finds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.hamming import distances
from filters.registration import SIDE, mismatch

LOOK = pa.schema(
    [
        ("phash", pa.uint64()),  # `NONE` of what has no picture
        ("tint", pa.uint64()),  # eight bytes: Cb and Cr of the quarters
        ("aspect", pa.float32()),  # the logarithm of width to height
        ("thumb", pa.binary(SIDE**2)),  # levels of grey, row by row
    ]
)
SCOPED = pa.schema([*LOOK, ("scope", pa.uint64())])  # within which looks are compared, hashed
NONE = 0  # no picture has this hash: of the signs of 64 values about their median some are set

ASPECT = 0.12  # a crop of 5 % on one side changes the logarithm by 0.05
BRIGHTNESS = 32  # levels of grey of the mean; a tenth brighter or darker is 25 at most
COLOUR = 12  # levels of Cb or Cr of a quarter
GREY = 3  # levels of Cb and Cr beside 128 that a grey picture's encoding leaves
# The share of the variance that may be left of one picture where the other is laid over it: chosen
# on half of the pictures of the benchmark.
LEFT = 0.035

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Limits:
    """In how many of 64 bits the hashes of pictures may differ.

    imagehash sets the 32 bits that are above the median, so that two hashes differ in an even
    number of bits unless values are equal.
    """

    distance: int = 10


def looks(rows: pa.Table) -> pa.Table:
    """What is compared of some rows of an image index, as a row of `LOOK` each."""
    columns = {
        "phash": _numbers(rows["phash"]),
        "tint": _numbers(rows["tint"]),
        "aspect": np.log(_ratio(rows["width"], rows["height"])),
        "thumb": pc.fill_null(rows["thumb"], pa.scalar(bytes(SIDE**2), pa.binary(SIDE**2))),
    }
    return pa.table(columns).cast(LOOK)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    return np.array([int(each or "0", 16) for each in column.to_pylist()], np.uint64)


def _ratio(width: pa.ChunkedArray, height: pa.ChunkedArray) -> NDArray[np.float64]:
    a, b = (np.asarray(pc.fill_null(side, 1), np.float64) for side in (width, height))
    return a / b


def alike(a: pa.Table, at: Places, b: pa.Table, to: Places, limits: Limits) -> NDArray[np.bool_]:
    """Which of the pairs of row `at[i]` of `a` and row `to[i]` of `b` are one picture."""
    found = _could_be(a, at, b, to, limits)
    left = np.flatnonzero(found)
    one, other = _thumbs(a, at[left]), _thumbs(b, to[left])
    lit = np.abs(one.mean(axis=(1, 2)) - other.mean(axis=(1, 2)))
    found[left] = (lit < BRIGHTNESS) & (mismatch(one, other) < LEFT)
    return found


def _could_be(
    a: pa.Table, at: Places, b: pa.Table, to: Places, limits: Limits
) -> NDArray[np.bool_]:
    """What eight bytes of shape, eight of colours and the proportions tell."""
    one, other = (_arrays(table, rows) for table, rows in ((a, at), (b, to)))
    found: NDArray[np.bool_] = (
        (distances(one["phash"], other["phash"]) <= limits.distance)
        & (np.abs(one["aspect"] - other["aspect"]) < ASPECT)
        & _same_colours(one["tint"], other["tint"])
    )
    return found


def _arrays(table: pa.Table, rows: Places) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(table[name])[rows] for name in ("phash", "tint", "aspect")}


def _thumbs(table: pa.Table, rows: Places) -> NDArray[np.uint8]:
    levels = np.frombuffer(b"".join(table["thumb"].take(pa.array(rows)).to_pylist()), np.uint8)
    return levels.reshape(len(rows), SIDE, SIDE)


def _same_colours(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.bool_]:
    a, b = (tint.view(np.uint8).reshape(-1, 8).astype(np.int16) for tint in (one, other))
    grey = np.minimum(*(np.abs(levels - 128).max(axis=1) for levels in (a, b))) <= GREY
    found: NDArray[np.bool_] = grey | (np.abs(a - b).max(axis=1) <= COLOUR)
    return found
