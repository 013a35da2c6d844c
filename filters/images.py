"""Image filters: batches of `shards.schema.IMAGE_PART`, one row for each image that is shown."""

import re
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.rules import Filter, Rule, above, below, flag

FORMATS = ["jpeg", "png", "webp"]
BANNED = ["logo", "button", "icon", "plugin", "widget", "porn", "xxx", "sex"]
# A capital after a small letter starts a word: siteLogo2 is "site", "Logo".
BETWEEN_WORDS = re.compile(r"[\W\d_]+|(?<=[a-z])(?=[A-Z])")


def image_side(batch: pa.Table, *, min: int | None = 150, max: int | None = 20_000) -> list[Rule]:
    """Keeps images whose width and height are 150 to 20,000 pixels, the limits of OBELICS.

    Laurençon et al. 2023 (arXiv 2306.16527), appendix A.1. DataComp's basic filter asks 200 for the
    shorter side and knows no upper limit.
    """
    width, height = _numbers(batch, "width"), _numbers(batch, "height")
    return [
        flag("image_size_unknown", np.isnan(width) | np.isnan(height)),
        below("image_too_small", np.minimum(width, height), min),
        above("image_too_large", np.maximum(width, height), max),
    ]


def image_aspect(batch: pa.Table, *, max: float | None = 2.0) -> list[Rule]:
    """Keeps images whose longer side is at most twice the shorter, as OBELICS and MMC4 do.

    Laurençon et al. 2023 (arXiv 2306.16527), appendix A.1. DataComp's basic filter allows 3.
    """
    width, height = _numbers(batch, "width"), _numbers(batch, "height")
    # A side of no pixels divides to infinity, which is more than any limit.
    with np.errstate(divide="ignore", invalid="ignore"):
        aspect = np.maximum(width, height) / np.minimum(width, height)
    return [
        flag("image_size_unknown", np.isnan(aspect)),
        above("image_too_elongated", aspect, max),
    ]


def image_format(batch: pa.Table, *, formats: list[str] = FORMATS) -> list[Rule]:
    """Keeps images of `formats`, by default those of OBELICS (arXiv 2306.16527, appendix A.1)."""
    kept = pc.is_in(batch["format"], value_set=pa.array(formats, pa.string())).to_numpy()
    return [flag("image_format_not_kept", ~kept)]


def image_url(batch: pa.Table, *, banned: list[str] = BANNED) -> list[Rule]:
    """Drops images with a word of `banned`, or its plural, in their URL.

    The words are those of OBELICS (Laurençon et al. 2023, arXiv 2306.16527, appendix A.1), which
    looks for them anywhere in the URL and so loses every image from Sussex. Here a word is a run of
    letters of host, path or query.
    """
    words = {word.lower() for word in banned}
    found = [not words.isdisjoint(_url_words(url or "")) for url in batch["url"].to_pylist()]
    return [flag("image_url_banned", np.array(found, bool))]


def image_similarity(batch: pa.Table, *, min: float | None = 0.15) -> list[Rule]:
    """Keeps images that a model scored as similar enough to their text.

    0.15 is the limit of MMC4 (Zhu et al. 2023, arXiv 2304.06939), for the cosine of CLIP
    ViT-L/14; another model needs another limit.
    """
    score = batch["score"].to_numpy()
    unscored = np.isnan(score) & (min is not None)
    return [flag("image_not_scored", unscored), below("image_low_similarity", score, min)]


def _numbers(batch: pa.Table, column: str) -> NDArray[np.float64]:
    """A column with NaN for null."""
    return np.asarray(batch[column].cast(pa.float64()).to_numpy())


def _url_words(url: str) -> set[str]:
    words = {word.lower() for word in BETWEEN_WORDS.split(unquote(url))}
    return words | {word.removesuffix("s") for word in words}


FILTERS: dict[str, Filter] = {
    f.__name__: f for f in (image_side, image_aspect, image_format, image_url, image_similarity)
}
