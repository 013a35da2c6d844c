"""Which pictures are one: the sample's, encoded again, resized, cropped, and others like them."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from filters.looks import LOOK, NONE, Limits, alike, looks
from shards.images import inspect_image, open_image
from shards.schema import IMAGE

SAMPLE = Path(__file__).parent.parent / "data" / "sample" / "www"
WALLPAPERS = SAMPLE / "stamps.mixwright.example" / "wallpapers"
# But for one of rings around its middle, whose symmetry a crop breaks.
PHOTOGRAPHS = [path for path in sorted(WALLPAPERS.glob("*.jpg"))[:7] if "ripple" not in path.stem]


def saved(picture: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def seen(*bodies: bytes) -> pa.Table:
    rows = [{"url": str(i), **inspect_image(body)} for i, body in enumerate(bodies)]
    return looks(pa.Table.from_pylist(rows, schema=IMAGE))


def same(one: bytes, other: bytes, limits: Limits = Limits()) -> bool:  # noqa: B008
    table = seen(one, other)
    (found,) = alike(table, np.array([0]), table, np.array([1]), limits)
    return bool(found)


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.stem)
def test_photographs_are_known_again(path: Path):
    body = path.read_bytes()
    picture = open_image(body)
    width, height = picture.size
    variants = [
        saved(picture, "JPEG", quality=30),
        saved(picture.resize((width // 2, height // 2)), "WEBP", quality=80),
        saved(picture.crop((width // 50, height // 50, width, height)), "JPEG", quality=90),
        saved(picture.convert("L")),
    ]
    assert all(same(body, variant) for variant in variants)


def test_photographs_are_not_each_other():
    table = seen(*(path.read_bytes() for path in PHOTOGRAPHS))
    low, high = np.triu_indices(len(PHOTOGRAPHS), 1)
    assert not alike(table, low, table, high, Limits()).any()


def disc(colour: str) -> Image.Image:
    picture = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, 180, 180), colour)
    return picture


def test_colour_tells_what_has_one_shape():
    assert not same(saved(disc("orange")), saved(disc("green")))
    assert same(saved(disc("orange")), saved(disc("orange").convert("L")))


def test_blank_pictures_are_alike_but_like_no_other():
    white, other = Image.new("RGB", (90, 90), "white"), Image.new("RGB", (200, 200), "white")
    assert same(saved(white), saved(other, "JPEG", quality=50))
    board = (np.indices((200, 200)).sum(axis=0) // 20 % 2 * 255).astype(np.uint8)
    assert not same(saved(white), saved(Image.fromarray(board)))
    navy, red = (Image.new("RGB", (90, 90), colour) for colour in ("navy", "red"))
    assert not same(saved(red), saved(navy))


def test_proportions_have_to_agree():
    picture = open_image(PHOTOGRAPHS[0].read_bytes())
    assert not same(saved(picture), saved(picture.resize((picture.width, picture.height // 2))))


def rows(phash: list[int], thumbs: list[bytes]) -> pa.Table:
    n = len(phash)
    columns = [phash, [0x8080808080808080] * n, [0.0] * n, thumbs]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, LOOK, strict=True)]
    return pa.table(arrays, schema=LOOK)


def levels(mean: int, contrast: float) -> bytes:
    noise = np.random.default_rng(1).normal(0, 1, 256)
    return np.clip(mean + contrast * noise, 0, 255).astype(np.uint8).tobytes()


def test_hashes_have_to_be_near():
    table = rows([0, *((1 << k) - 1 for k in range(1, 13))], [levels(128, 30)] * 13)
    found = alike(table, np.zeros(12, int), table, np.arange(1, 13), Limits())
    assert found.tolist() == [k <= 10 for k in range(1, 13)]


def test_brightness_and_contrast_have_to_agree():
    """Black dots on white, and a faint shadow of them, may have one hash."""
    given = [(128, 30), (150, 30), (170, 30), (128, 25), (128, 9)]
    table = rows([7] * 5, [levels(*each) for each in given])
    found = alike(table, np.zeros(5, int), table, np.arange(5), Limits())
    assert found.tolist() == [True, True, False, True, False]


def test_signs_that_differ_in_what_they_show_are_two():
    """Their hashes are as near as those of a sign and its crop."""
    one, other = (Image.new("L", (200, 200), "white") for _ in range(2))
    for sign, bar in ((one, (60, 90, 140, 110)), (other, (90, 60, 110, 140))):
        ImageDraw.Draw(sign).ellipse((20, 20, 180, 180), None, "black", 20)
        ImageDraw.Draw(sign).rectangle(bar, "black")
    assert same(saved(one), saved(one.crop((6, 6, 200, 200))), Limits(64))
    assert not same(saved(one), saved(other), Limits(64))


def test_what_has_no_picture_has_no_look():
    nothing = pa.Table.from_pylist([{"url": "x", "reason": "not_found"}], schema=IMAGE)
    assert looks(nothing)["phash"].to_pylist() == [NONE]
