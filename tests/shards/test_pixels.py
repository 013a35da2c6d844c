"""Measures of pixels: exact on pictures that are drawn, and in their order on real ones."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import imagehash
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from scipy.ndimage import laplace
from scipy.stats import mannwhitneyu

from shards.images import open_image
from shards.pixels import SIDE, measure, sharpness, shrunk, text_share, tint, view
from tests.shards.variants import photo

DEV = os.environ.get("MIXWRIGHT_DEV_DATA")


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (300, 200)) -> Image.Image:
    return Image.new("RGB", size, colour)


def test_a_picture_of_one_colour_has_no_edges() -> None:
    found = measure(flat((65, 105, 225)))
    assert (found["uniformity"], found["sharpness"], found["text_share"]) == (1, 0, 0)


def test_two_halves_are_half_uniform() -> None:
    image = flat((255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 150, 200))
    assert measure(image)["uniformity"] == 0.5


def test_noise_around_a_level_is_still_uniform() -> None:
    noise = np.random.default_rng(0).integers(120, 136, (200, 300, 1), dtype=np.uint8)
    image = Image.fromarray(np.broadcast_to(noise, (200, 300, 3)).copy())
    assert measure(image)["uniformity"] == 1


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.integers(3, 60))
def test_sharpness_is_the_variance_of_the_laplacian(seed: int, width: int, height: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    # OpenCV mirrors a picture at its border without repeating the border itself.
    expected = laplace(grey.astype(float), mode="mirror").var()
    assert sharpness(grey) == pytest.approx(expected)
    assert sharpness(grey) == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var())


def test_phash_is_near_imagehash_of_the_whole_picture() -> None:
    found = imagehash.hex_to_hash(measure(photo())["phash"])
    assert found - imagehash.phash(photo()) <= 2


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((100, 50), (100, 50)),
        ((512, 9), (512, 9)),
        ((1024, 512), (512, 256)),
        ((9, 9000), (1, 512)),
    ],
)
def test_pictures_are_measured_at_one_size(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert shrunk(flat((1, 2, 3), size)).size == expected and max(expected) <= SIDE


def test_a_picture_that_lies_in_several_blocks_of_memory_is_seen_as_any_other() -> None:
    whole = photo()
    size = Image.core.get_block_size()
    Image.core.set_block_size(2**16)
    try:
        pieces = whole.copy()
    finally:
        Image.core.set_block_size(size)
    with pytest.raises(ValueError, match="multiple"):
        pa.array(pieces)
    assert np.array_equal(view(pieces)[..., :3], np.asarray(whole))
    assert np.array_equal(view(whole)[..., :3], np.asarray(whole))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_tint_is_the_mean_colour_of_each_quarter(seed: int, width: int, height: int) -> None:
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    top, left = levels[: (height + 1) // 2], levels[:, : (width + 1) // 2]
    corners = [top[:, : left.shape[1]], top[:, width // 2 :]]
    corners += [left[height // 2 :], levels[height // 2 :, width // 2 :]]
    means = np.array([np.rint(corner.mean(axis=(0, 1))) for corner in corners], np.uint8)
    expected = np.asarray(Image.fromarray(means[None]).convert("YCbCr"))[..., 1:]
    found = np.frombuffer(bytes.fromhex(tint(Image.fromarray(levels))), np.uint8)
    assert np.abs(found.astype(int) - expected.ravel()).max() <= 1


def test_measures_hardly_depend_on_the_size_of_a_picture() -> None:
    large = photo().resize((1920, 1737), Image.Resampling.LANCZOS)
    one, three = measure(photo()), measure(large)
    for name, off in (("uniformity", 0.02), ("sharpness", 0.2)):
        assert three[name] == pytest.approx(one[name], rel=off)


def lines_of_text(size: int, lines: int) -> Image.Image:
    """Words as bars of letters: strokes with gaps, as any script has."""
    grey = np.full((400, 500), 255, np.uint8)
    for line in range(lines):
        top = 10 + line * (size + 10)
        for left in range(10, 470, 5):
            if left % 60 > 8:
                grey[top : top + size, left : left + 2] = 0
    return Image.fromarray(grey)


def test_more_lines_of_text_are_a_larger_share() -> None:
    shares = [text_share(np.asarray(lines_of_text(12, lines))) for lines in (0, 5, 15)]
    assert shares[0] == 0
    assert shares[1] == pytest.approx(5 * 8 * 51 * 14 / 200_000, rel=0.35)
    assert shares[2] == pytest.approx(3 * shares[1], rel=0.1)


def test_frames_and_letters_as_high_as_a_poster_are_no_lines_of_text() -> None:
    grey = np.full((400, 500), 255, np.uint8)
    grey[20:380:40] = 0
    grey[:, 20:480:40] = 0
    assert text_share(grey) == 0
    assert text_share(np.asarray(lines_of_text(100, 3))) == 0


def test_as_many_specks_as_a_picture_holds_are_no_words() -> None:
    grey = np.zeros((SIDE, SIDE), np.uint8)
    grey[::4, ::12] = 255
    assert text_share(grey) == 0


# Real pictures


def photographs(most: int) -> list[Path]:
    """Of the captioned ones, those that colour statistics take for photographs; nine in ten are."""
    folder = Path(DEV or "") / "captions"
    with (folder / "captions.tsv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["kind"] == "photo"]
    return [folder / row["file"] for row in rows[:: len(rows) // most]]


def screenshots() -> list[Path]:
    """Windows and menus of an accountant's program and a file manager."""
    folder = Path(DEV or "") / "html"
    found = [
        file
        for name in ("gnucash-docs", "doublecmd-help-ru", "wireshark-doc")
        for file in sorted((folder / name).rglob("*.png"))
    ]
    return [file for file in found if min(Image.open(file).size) >= 150]


def auc(more: list[float], less: list[float]) -> float:
    """How probably one of `more` is above one of `less`."""
    return float(mannwhitneyu(more, less).statistic / (len(more) * len(less)))


def measured(
    files: list[Path], change: Callable[[Image.Image], Image.Image] = lambda image: image
) -> list[dict[str, Any]]:
    return [measure(change(open_image(file.read_bytes()))) for file in files]


@pytest.mark.skipif(not DEV, reason="MIXWRIGHT_DEV_DATA is not set")
def test_screenshots_have_more_text_than_photographs() -> None:
    shots, photos = measured(screenshots()), measured(photographs(200))
    found = auc([m["text_share"] for m in shots], [m["text_share"] for m in photos])
    print(f"{len(shots)} screenshots, {len(photos)} photographs: AUC {found:.3f}")
    assert found > 0.93


@pytest.mark.skipif(not DEV, reason="MIXWRIGHT_DEV_DATA is not set")
def test_blurred_photographs_are_less_sharp_and_below_the_threshold() -> None:
    files = photographs(200)
    sharp = [m["sharpness"] for m in measured(files)]
    blurred = [
        m["sharpness"]
        for m in measured(files, lambda image: image.filter(ImageFilter.GaussianBlur(2)))
    ]
    assert auc(sharp, blurred) > 0.99
    assert np.mean(np.array(sharp) < 100) < 0.03 and np.mean(np.array(blurred) < 100) > 0.97
