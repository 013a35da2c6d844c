"""Captions: what is too short, a file name, an address or boilerplate."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import captions
from filters.rules import reasons
from shards import schema


def pairs(*texts: str) -> pa.Table:
    image = schema.image_part("https://example.org/a.jpg")
    return schema.documents(
        schema.document("test", None, [image, schema.text_part(text)]) for text in texts
    )


def test_caption_words_keeps_more_than_two() -> None:
    batch = pairs("A grey heron", "Grey heron", " grey \n heron ", "")
    few = "caption_too_few_words"
    assert reasons(captions.caption_words(batch)).to_pylist() == [None, few, few, few]
    assert reasons(captions.caption_words(batch, min=None, max=2)).to_pylist() == [
        "caption_too_many_words",
        None,
        None,
        None,
    ]


def test_caption_characters_keeps_more_than_five() -> None:
    batch = pairs("herons", "heron", "  heron  ", "")
    few = "caption_too_few_characters"
    assert reasons(captions.caption_characters(batch)).to_pylist() == [None, few, few, few]
    assert reasons(captions.caption_characters(batch, min=None, max=5)).to_pylist() == [
        "caption_too_many_characters",
        None,
        None,
        None,
    ]


@pytest.mark.parametrize(
    "name",
    [
        "IMG_1234.jpg",
        "IMG_1234",
        "img 20190101-WA0007",
        "DSC0001",
        "DSCN0412.JPG",
        "P1010123",
        "Summer holiday 2019.jpeg",
        "hero-banner@2x.webp",
        "screenshot 2021-03-04 10.11.12",
        "image (3)",
        "untitled",
        "20190304_111213",
        "d41d8cd98f00b204e9800998ecf8427e",
        " photo-12 ",
    ],
)
def test_file_names_are_no_captions(name: str) -> None:
    assert reasons(captions.caption_file_name(pairs(name))).to_pylist() == ["caption_file_name"]


@pytest.mark.parametrize(
    "caption",
    [
        "Image of a heron",
        "The file IMG_1234.jpg shows a heron",
        "Symbolic bus extracted from bus_lane.svg",
        "Photograph of 1912",
        "3 herons",
        "Scandinavian birds",
        "decade",
        "",
    ],
)
def test_descriptions_are_no_file_names(caption: str) -> None:
    assert reasons(captions.caption_file_name(pairs(caption))).to_pylist() == [None]


def test_web_addresses_are_no_captions() -> None:
    batch = pairs("https://example.org/a b", "HTTP://example.org/a", "www.example.org", "www. is")
    assert reasons(captions.caption_url(batch)).to_pylist() == [
        None,
        "caption_url",
        "caption_url",
        None,
    ]


def test_boilerplate_is_no_caption() -> None:
    batch = pairs("A heron. Click\u00a0to  ENLARGE", "A heron clicks its beak", "Noimage available")
    assert reasons(captions.caption_boilerplate(batch)).to_pylist() == [
        "caption_boilerplate",
        None,
        None,
    ]
    assert reasons(captions.caption_boilerplate(batch, phrases=["Its  Beak"])).to_pylist() == [
        None,
        "caption_boilerplate",
        None,
    ]
    assert reasons(captions.caption_boilerplate(batch, phrases=[])).to_pylist() == [None] * 3


@pytest.mark.parametrize(
    "label",
    [
        "Image",
        "image #3",
        "[PHOTO]",
        "Photo 12",
        "Site  Logo",
        "...",
        "Featured image",
        "N/A",
        "fig. 2",
    ],
)
def test_a_label_alone_is_no_caption(label: str) -> None:
    expected = None if label == "..." else "caption_boilerplate"
    batch = pairs(label, f"{label} of a heron")
    assert reasons(captions.caption_boilerplate(batch)).to_pylist() == [expected, None]
    assert reasons(captions.caption_boilerplate(batch, labels=[])).to_pylist() == [None, None]


def test_labels_are_a_threshold() -> None:
    batch = pairs("Bild 4", "Image 4")
    found = reasons(captions.caption_boilerplate(batch, labels=["BILD"])).to_pylist()
    assert found == ["caption_boilerplate", None]


def test_what_sellers_add_is_no_description() -> None:
    batch = pairs(
        "Grey heron at a lake, royalty-free  Stock Photo",
        "Heron - Shutterstock",
        "Heron vector",
        "A stock of photos",
    )
    stock = "caption_stock"
    assert reasons(captions.caption_stock(batch)).to_pylist() == [stock, stock, None, None]
    assert reasons(captions.caption_stock(batch, phrases=["vector"])).to_pylist() == [
        None,
        None,
        stock,
        None,
    ]


def test_caption_alphanumeric() -> None:
    batch = pairs("abc,.", "ab,.;", "Ein Graureiher am See", "★★★ SALE ★★★", "一只苍鹭。", "")
    few = "caption_few_alphanumeric"
    found = reasons(captions.caption_alphanumeric(batch)).to_pylist()
    assert found == [None, few, None, few, None, few]
    assert reasons(captions.caption_alphanumeric(batch, min=0.4)).to_pylist()[1] is None


@given(st.lists(st.one_of(st.text(), st.from_regex(captions.FILE_NAME)), max_size=4))
def test_any_caption_gives_a_column_of_reasons(texts: list[str]) -> None:
    for rule in captions.FILTERS.values():
        column = reasons(rule(pairs(*texts)))
        assert (len(column), column.type) == (len(texts), pa.string())


def test_long_runs_take_linear_time() -> None:
    # A pattern that backtracked over these would not end within a test run.
    for run in ("img" + "1 " * 50_000 + "x", "a" * 100_000, "1" * 100_000 + "x", ". " * 50_000):
        assert reasons(captions.caption_file_name(pairs(run))).to_pylist() == [None]
        assert reasons(captions.caption_boilerplate(pairs(run))).to_pylist() == [None]
