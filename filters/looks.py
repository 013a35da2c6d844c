"""When two pictures are one: by perceptual hash, and what a hash of shapes in grey cannot tell.

Two pictures are alike if their 64-bit hashes differ in few bits (imagehash's `phash`), and if their
proportions, contrast and colours agree as far as a new encoding, another size or a slight crop
leaves them. A grey picture has no colours that could differ. Of pictures that are largely of one
shade (clip art, signs, emoji, screenshots) the hash has little to go by, and different ones are few
bits apart: they have to be closer. `benchmarks/image_dedupe.py` measures what this finds.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.hamming import distances

LOOK = pa.schema(
    [
        ("phash", pa.uint64()),  # `NONE` of what has no picture
        ("tint", pa.uint64()),  # eight bytes: Cb and Cr of the quarters
        ("aspect", pa.float32()),  # the logarithm of width to height
        ("contrast", pa.float32()),
        ("uniformity", pa.float32()),
    ]
)
SCOPED = pa.schema([*LOOK, ("scope", pa.uint64())])  # within which looks are compared, hashed
NONE = 0  # no picture has this hash: of the signs of 64 values about their median some are set

FLAT = 0.5  # the share of a picture in one shade above which it counts as flat
ASPECT = 0.12  # a crop of 5 % on one side changes the logarithm by 0.05
CONTRAST = 0.35  # of the larger one; a change of brightness by a tenth clips away up to 0.25
LEAST_CONTRAST = 8.0  # levels of grey below which pictures differ in noise
COLOUR = 12  # levels of Cb or Cr of a quarter
GREY = 3  # levels of Cb and Cr beside 128 that a grey picture's encoding leaves

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Limits:
    """In how many of 64 bits the hashes of pictures may differ, and those of flat ones.

    imagehash sets the 32 bits that are above the median, so that two hashes differ in an even
    number of bits unless values are equal.
    """

    distance: int = 8
    flat_distance: int = 4


def looks(rows: pa.Table) -> pa.Table:
    """What is compared of some rows of an image index, as a row of `LOOK` each."""
    columns = {
        "phash": _numbers(rows["phash"]),
        "tint": _numbers(rows["tint"]),
        "aspect": np.log(_ratio(rows["width"], rows["height"])),
        "contrast": pc.fill_null(rows["contrast"], 0.0),
        "uniformity": pc.fill_null(rows["uniformity"], 1.0),
    }
    return pa.table(columns).cast(LOOK)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    return np.array([int(each or "0", 16) for each in column.to_pylist()], np.uint64)


def _ratio(width: pa.ChunkedArray, height: pa.ChunkedArray) -> NDArray[np.float64]:
    a, b = (np.asarray(pc.fill_null(side, 1), np.float64) for side in (width, height))
    return a / b


def alike(a: pa.Table, at: Places, b: pa.Table, to: Places, limits: Limits) -> NDArray[np.bool_]:
    """Which of the pairs of row `at[i]` of `a` and row `to[i]` of `b` are one picture."""
    one, other = (_arrays(table, rows) for table, rows in ((a, at), (b, to)))
    flat = np.maximum(one["uniformity"], other["uniformity"]) > FLAT
    near = distances(one["phash"], other["phash"]) <= np.where(
        flat, limits.flat_distance, limits.distance
    )
    strongest = np.maximum(LEAST_CONTRAST, np.maximum(one["contrast"], other["contrast"]))
    found: NDArray[np.bool_] = (
        near
        & (np.abs(one["aspect"] - other["aspect"]) < ASPECT)
        & (np.abs(one["contrast"] - other["contrast"]) < CONTRAST * strongest)
        & _same_colours(one["tint"], other["tint"])
    )
    return found


def _arrays(table: pa.Table, rows: Places) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(table[name])[rows] for name in LOOK.names}


def _same_colours(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.bool_]:
    a, b = (tint.view(np.uint8).reshape(-1, 8).astype(np.int16) for tint in (one, other))
    grey = np.minimum(*(np.abs(levels - 128).max(axis=1) for levels in (a, b))) <= GREY
    found: NDArray[np.bool_] = grey | (np.abs(a - b).max(axis=1) <= COLOUR)
    return found
