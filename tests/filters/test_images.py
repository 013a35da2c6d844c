"""Images: size, shape, format, address and similarity, on either side of each limit."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import images
from filters.rules import reasons
from shards import schema


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
    batch = shown(format=["jpeg", "png", "webp", "gif", None])
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


SIDES = st.one_of(st.none(), st.integers(0, 2**31 - 1))
IMAGES = st.fixed_dictionaries(
    {
        "url": st.text(),
        "width": SIDES,
        "height": SIDES,
        "format": st.one_of(st.none(), st.text()),
        "score": st.one_of(st.none(), st.floats(-1, 1, width=32)),
    }
)


@settings(deadline=None)
@given(st.lists(IMAGES, max_size=4))
def test_any_image_gives_a_column_of_reasons(rows: list[dict[str, Any]]) -> None:
    batch = pa.Table.from_pylist(rows, schema.IMAGE_PART)
    for rule in images.FILTERS.values():
        column = reasons(rule(batch))
        assert (len(column), column.type) == (len(rows), pa.string())
