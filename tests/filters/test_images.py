"""Images: size, shape, format, address and similarity, on either side of each limit."""

import io
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from filters import images
from filters.rules import reasons
from shards import schema
from shards.images import inspect_image
from tests.shards.variants import photo


def shown(**columns: list[Any]) -> pa.Table:
    """A batch of images with the given columns; the others are null."""
    n = len(next(iter(columns.values())))
    rows = [{name: values[i] for name, values in columns.items()} for i in range(n)]
    return pa.Table.from_pylist(
        [{"url": "https://example.org/a.jpg", **row} for row in rows], schema.IMAGE_PART
    )


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (150, 150, None),
        (149, 150, "image_too_small"),
        (150, 149, "image_too_small"),
        (20_000, 20_000, None),
        (20_001, 200, "image_too_large"),
        (200, 20_001, "image_too_large"),
        (None, 200, "image_size_unknown"),
        (200, None, "image_size_unknown"),
    ],
)
def test_image_side(width: int | None, height: int | None, reason: str | None) -> None:
    assert reasons(images.image_side(shown(width=[width], height=[height]))).to_pylist() == [reason]


def test_sides_have_limits_of_their_own_use() -> None:
    batch = shown(width=[10, 300, 30_000], height=[10, 199, 300])
    assert reasons(images.image_side(batch, min=200, max=None)).to_pylist() == [
        "image_too_small",
        "image_too_small",
        None,
    ]


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (400, 200, None),
        (200, 400, None),
        (401, 200, "image_too_elongated"),
        (200, 401, "image_too_elongated"),
        (10, 0, "image_too_elongated"),
        (0, 0, "image_size_unknown"),
        (None, 10, "image_size_unknown"),
    ],
)
def test_image_aspect(width: int | None, height: int | None, reason: str | None) -> None:
    assert reasons(images.image_aspect(shown(width=[width], height=[height]))).to_pylist() == [
        reason
    ]


def test_image_format() -> None:
    given = ["jpeg", "png", "webp", "gif", None]
    batch = shown(original_format=given, format=["jpeg"] * 5)  # what is stored does not matter
    no = "image_format_not_kept"
    assert reasons(images.image_format(batch)).to_pylist() == [None, None, None, no, no]
    assert reasons(images.image_format(batch, formats=["gif"])).to_pylist() == [
        no,
        no,
        no,
        None,
        no,
    ]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/img/logo.png",
        "https://example.org/Icons/home.png",
        "https://example.org/siteLogo2.png",
        "https://example.org/i?kind=BUTTON",
        "https://example.org/my%2Dwidget%2Fa.jpg",
        "https://xxx.example.org/a.jpg",
        "/relative/plugin_small.gif",
    ],
)
def test_banned_words_in_a_url(url: str) -> None:
    assert reasons(images.image_url(shown(url=[url]))).to_pylist() == ["image_url_banned"]


@pytest.mark.parametrize(
    "url",
    [
        "https://www.sussex.ac.uk/campus.jpg",
        "https://example.org/silicon/wafer.png",
        "https://example.org/catalogoue/dialogos.jpg",
        "https://example.org/lexicon.jpg",
    ],
)
def test_banned_words_inside_other_words(url: str) -> None:
    assert reasons(images.image_url(shown(url=[url]))).to_pylist() == [None]


def test_banned_words_are_a_threshold() -> None:
    batch = shown(url=["https://example.org/logo.png", "https://example.org/реклама_1.png"])
    assert reasons(images.image_url(batch, banned=["Реклама"])).to_pylist() == [
        None,
        "image_url_banned",
    ]


def test_image_similarity() -> None:
    batch = shown(score=[0.15, 0.1499, None, -1.0])
    low = "image_low_similarity"
    assert reasons(images.image_similarity(batch)).to_pylist() == [
        None,
        low,
        "image_not_scored",
        low,
    ]
    assert reasons(images.image_similarity(batch, min=None)).to_pylist() == [None] * 4


def test_image_area() -> None:
    batch = shown(width=[10, 10, 3, None], height=[10, 11, 3, 9])
    assert reasons(images.image_area(batch)).to_pylist() == [None] * 3 + ["image_size_unknown"]
    assert reasons(images.image_area(batch, min=10, max=100)).to_pylist() == [
        None,
        "image_area_too_large",
        "image_area_too_small",
        "image_size_unknown",
    ]


def test_image_animated() -> None:
    batch = shown(animated=[True, False, None])
    assert reasons(images.image_animated(batch)).to_pylist() == ["image_animated", None, None]


def test_image_blank() -> None:
    batch = shown(uniformity=[0.99, 0.991, None])
    assert reasons(images.image_blank(batch)).to_pylist() == [None, "image_blank", None]


def test_image_sharpness() -> None:
    batch = shown(sharpness=[100.0, 99.9, None])
    assert reasons(images.image_sharpness(batch)).to_pylist() == [None, "image_blurred", None]


def test_image_text() -> None:
    batch = shown(text_share=[0.1, 0.101, 0.0])
    assert reasons(images.image_text(batch)).to_pylist() == [None, "image_text_heavy", None]


def test_image_nsfw() -> None:
    batch = shown(nsfw=[0.8, 0.81, None])
    assert reasons(images.image_nsfw(batch)).to_pylist() == [None, "image_nsfw", "image_not_scored"]
    assert reasons(images.image_nsfw(batch, max=None)).to_pylist() == [None] * 3


def measured(picture: Image.Image) -> pa.Table:
    """The row of a picture as it is stored and seen by filters."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return pa.Table.from_pylist([{"url": "u", **inspect_image(file.getvalue())}], schema.IMAGE_PART)


def test_rules_of_pixels_on_pictures() -> None:
    """A photograph passes; blurred, blank or of text it does not."""
    rules = (images.image_blank, images.image_sharpness, images.image_text)
    sharp = photo().resize((320, 290))
    page = Image.new("RGB", (500, 400), "white")
    for line in range(20):
        text = "The quick brown fox jumps over the lazy dog, and back again to where it was."
        ImageDraw.Draw(page).text((8, 4 + 20 * line), text, fill="black")
    pictures = {
        None: sharp,
        "image_blank": sharp.point(lambda level: 100 + level // 20),
        "image_blurred": sharp.filter(ImageFilter.GaussianBlur(2)),
        "image_text_heavy": page,
    }
    for reason, picture in pictures.items():
        batch = measured(picture)
        found = reasons([rule for name in rules for rule in name(batch)]).to_pylist()
        assert found == [reason]


SIDES = st.one_of(st.none(), st.integers(0, 2**31 - 1))
IMAGES = st.fixed_dictionaries(
    {
        "url": st.text(),
        "width": SIDES,
        "height": SIDES,
        "original_format": st.one_of(st.none(), st.text()),
        "animated": st.one_of(st.none(), st.booleans()),
        "sharpness": st.one_of(st.none(), st.floats(0, 1e6, width=32)),
        "uniformity": st.one_of(st.none(), st.floats(0, 1, width=32)),
        "nsfw": st.one_of(st.none(), st.floats(0, 1, width=32)),
        "score": st.one_of(st.none(), st.floats(-1, 1, width=32)),
    }
)


@given(st.lists(IMAGES, max_size=4))
def test_any_image_gives_a_column_of_reasons(rows: list[dict[str, Any]]) -> None:
    batch = pa.Table.from_pylist(rows, schema.IMAGE_PART)
    for rule in images.FILTERS.values():
        column = reasons(rule(batch))
        assert (len(column), column.type) == (len(rows), pa.string())
