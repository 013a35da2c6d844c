"""What the pixels of a picture tell without a model: measured once, when it is stored.

All measures are of one greyscale picture (ITU-R 601 luma, 8 bits) whose longer side is at most
`SIDE` pixels, so that they compare between pictures of any size.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from shards.schema import THUMB

SIDE = 512
NEAR_LEVELS = 16  # of 256 levels of grey that pass for one shade

Pixels = NDArray[np.uint8]  # [height, width, 4]: red, green, blue, and a byte that means nothing
Grey = NDArray[np.uint8]  # [height, width]


def measure(picture: Image.Image) -> dict[str, Any]:
    """The columns of `schema.IMAGE` that pixels tell: `phash`, `tint`, `thumb` and four measures.

    `picture` is RGB. `contrast` is the standard deviation of grey, 0 to 127.5; `uniformity` the
    largest share of pixels within 16 neighbouring levels of grey, 1/16 to 1.
    """
    small = shrunk(picture)
    grey = np.asarray(small)
    levels = np.array(small.histogram())
    return {
        "phash": phash(small),
        "tint": tint(picture),
        "thumb": thumb(small),
        "contrast": _deviation(levels),
        "uniformity": float(np.convolve(levels, np.ones(NEAR_LEVELS)).max() / grey.size),
        "sharpness": sharpness(grey),
        "text_share": text_share(grey),
    }


def view(picture: Image.Image) -> Pixels:
    """An RGB picture's own memory, which is copied only if Pillow holds it in several blocks."""
    try:
        levels = pa.array(picture).flatten().to_numpy()
    except ValueError:
        return np.asarray(picture.convert("RGBX"))
    return np.asarray(levels.reshape(picture.height, picture.width, 4))


def shrunk(picture: Image.Image) -> Image.Image:
    """An RGB picture in grey, its longer side `SIDE` pixels or, if it has fewer, as it is.

    It is halved by averages of 2 x 2 as often as that goes, and the rest of the way interpolated.
    """
    import cv2

    grey: Grey = np.asarray(cv2.cvtColor(view(picture), cv2.COLOR_RGBA2GRAY), np.uint8)
    while max(grey.shape) >= 2 * SIDE and min(grey.shape) > 1:
        height, width = (side // 2 for side in grey.shape)
        grey = _resized(grey[: 2 * height, : 2 * width], width, height, cv2.INTER_AREA)
    scale = min(SIDE / max(grey.shape), 1)
    height, width = (max(round(side * scale), 1) for side in grey.shape)
    return Image.fromarray(_resized(grey, width, height, cv2.INTER_LINEAR_EXACT))


def _resized(grey: Grey, width: int, height: int, how: int) -> Grey:
    import cv2

    return np.asarray(cv2.resize(grey, (width, height), interpolation=how), np.uint8)


def phash(small: Image.Image) -> str:
    """The perceptual hash of a picture as `shrunk` gives it: 64 bits as 16 hex digits."""
    import imagehash  # not among what a reader of shards installs, and neither is cv2

    # The size that imagehash would bring it to by itself, which takes most of its time.
    tile = small.resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return str(imagehash.phash(tile))


def thumb(small: Image.Image) -> bytes:
    """A picture as `shrunk` gives it in `THUMB` x `THUMB` levels of grey, smooth enough to move."""
    return small.resize((THUMB, THUMB), Image.Resampling.BICUBIC, reducing_gap=4.0).tobytes()


def tint(picture: Image.Image) -> str:
    """The colours of the four quarters, without their brightness: Cb and Cr of each, as hex.

    A row or column in the middle belongs to both sides.
    """
    import cv2

    pixels = view(picture)
    height, width = pixels.shape[:2]
    halves = [(slice((n + 1) // 2), slice(n // 2, n)) for n in (height, width)]
    means = [cv2.mean(pixels[y, x])[:3] for y in halves[0] for x in halves[1]]
    quarters = Image.fromarray(np.rint(means).astype(np.uint8).reshape(2, 2, 3))
    return np.asarray(quarters.convert("YCbCr"))[..., 1:].tobytes().hex()


def _deviation(levels: NDArray[np.int64]) -> float:
    """The standard deviation of grey, from the number of pixels of each level."""
    mean = np.average(np.arange(256), weights=levels)
    return float(np.sqrt(np.average((np.arange(256) - mean) ** 2, weights=levels)))


def sharpness(grey: Grey) -> float:
    """The variance of the Laplacian (3 x 3, four neighbours): low where edges are blurred.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy", as LAPV. NeMo
    Curator's blur score is the same of the picture in its full size, where large and noisy
    pictures come out sharper; here it is of `SIDE` pixels, near what an encoder sees.
    """
    import cv2

    second = cv2.Laplacian(grey, cv2.CV_16S)
    return float(cv2.meanStdDev(second)[1][0, 0] ** 2)


def text_share(grey: Grey) -> float:
    """The share of the picture that lines of text seem to cover, 0 to 1; this project's own.

    Strong edges (a morphological gradient over Otsu's threshold) without long straight lines are
    joined along rows; what then is 4 to 32 pixels high, at least 1.5 times as wide and fills half
    of its box passes for words. It reads no letters: crowds and city lights count a little, higher
    letters not at all. Screenshots of menus and dialogs have about 0.1, photographs about 0.005; a
    screenshot is above a photograph in 95 of 100 pairs (`tests/shards/test_pixels.py`).
    """
    import cv2

    edges = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    _, strong = cv2.threshold(edges, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    rules = [cv2.morphologyEx(strong, cv2.MORPH_OPEN, np.ones(s, np.uint8)) for s in RULE_SHAPES]
    words = cv2.subtract(strong, cv2.max(*rules))
    joined = cv2.morphologyEx(words, cv2.MORPH_CLOSE, np.ones((1, 9), np.uint8))
    # Gaps are at least 9 wide after the joining: labels of `SIDE` x `SIDE` pixels fit 16 bits.
    found = cv2.connectedComponentsWithStatsWithAlgorithm(joined, 8, cv2.CV_16U, cv2.CCL_BOLELLI)
    boxes = found[2][1:]  # 0 is what is around
    width, height, area = (boxes[:, i].astype(float) for i in COMPONENT)
    line = (height >= 4) & (height <= 32) & (width >= 1.5 * height)
    return float((width * height)[line & (area >= 0.5 * width * height)].sum() / grey.size)


RULE_SHAPES = ((1, 41), (41, 1))  # pixels of a straight line that is no letter's
COMPONENT = (2, 3, 4)  # width, height and area among OpenCV's figures of a component
