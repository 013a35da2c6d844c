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


def image_area(batch: pa.Table, *, min: int | None = None, max: int | None = None) -> list[Rule]:
    """Keeps images of `min` to `max` pixels in all; it has no bounds unless a recipe gives them.

    img2dataset can be given the upper one, max_image_area, and has no default either.
    """
    area = _numbers(batch, "width") * _numbers(batch, "height")
    return [
        flag("image_size_unknown", np.isnan(area)),
        below("image_area_too_small", area, min),
        above("image_area_too_large", area, max),
    ]


def image_format(batch: pa.Table, *, formats: list[str] = FORMATS) -> list[Rule]:
    """Keeps images that came as one of `formats`, by default OBELICS' (appendix A.1, as above)."""
    kept = pc.is_in(batch["original_format"], value_set=pa.array(formats, pa.string())).to_numpy()
    return [flag("image_format_not_kept", ~kept)]


def image_animated(batch: pa.Table) -> list[Rule]:
    """Drops images of more than one frame; their first is what is stored. This project's own."""
    return [flag("image_animated", pc.fill_null(batch["animated"], False).to_numpy())]


def image_blank(batch: pa.Table, *, max: float | None = 0.99) -> list[Rule]:
    """Drops images of one shade: spacers, tracking pixels, empty canvases; this project's own rule.

    The measure is the largest share of an image's pixels within 16 neighbouring levels of grey of
    256 (`shards.pixels`). Plots and line drawings on white reach 0.985.
    """
    return [above("image_blank", _numbers(batch, "uniformity"), max)]


def image_sharpness(batch: pa.Table, *, min: float | None = 100.0) -> list[Rule]:
    """Drops blurred images: those whose Laplacian varies less.

    100 is the default of NeMo Curator's blur filter for interleaved documents, of images in their
    full size; here it is of at most 512 pixels (`shards.pixels.sharpness`), where photographs from
    textbooks lie above 150 (99 %) and the same blurred by two pixels below 50.
    """
    return [below("image_blurred", _numbers(batch, "sharpness"), min)]


def image_text(batch: pa.Table, *, max: float | None = 0.1) -> list[Rule]:
    """Drops images that seem covered by lines of text: screenshots, scanned pages, slides.

    The measure, `shards.pixels.text_share`, and the bound are this project's own: of screenshots of
    programs it drops half, of photographs in textbooks 2 %, most of them of posters and documents.
    """
    return [above("image_text_heavy", _numbers(batch, "text_share"), max)]


def image_nsfw(batch: pa.Table, *, max: float | None = 0.8) -> list[Rule]:
    """Drops images that the step nsfw finds more probably pornographic.

    0.8 is from where open_nsfw's authors take an image for that; below 0.2 they take it for safe
    (Mahadeokar & Pesavento 2016). OBELICS drops the page, above 0.85 of another model.
    """
    score = _numbers(batch, "nsfw")
    unscored = np.isnan(score) & (max is not None)
    return [flag("image_not_scored", unscored), above("image_nsfw", score, max)]


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
    f.__name__: f
    for f in (
        image_side,
        image_aspect,
        image_area,
        image_format,
        image_animated,
        image_url,
        image_blank,
        image_sharpness,
        image_text,
        image_nsfw,
        image_similarity,
    )
}
