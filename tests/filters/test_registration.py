"""Crops of real pictures lie on them; other pictures do not, however they are moved."""

import io
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from filters import registration
from filters.registration import SIDE, mismatch
from shards.pixels import shrunk, thumb
from tests.pipelines.small import SAMPLE

PHOTOGRAPHS = [Image.open(path) for path in sorted((SAMPLE / "www").rglob("wallpapers/*.jpg"))[:4]]


def small(*pictures: Image.Image) -> np.ndarray:
    levels = b"".join(thumb(shrunk(picture)) for picture in pictures)
    return np.frombuffer(levels, np.uint8).reshape(-1, SIDE, SIDE)


def cropped(picture: Image.Image, *shares: float) -> Image.Image:
    width, height = picture.size
    left, top, right, bottom = shares
    return picture.crop(
        (round(left * width), round(top * height), round(right * width), round(bottom * height))
    )


def encoded(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=30)
    return Image.open(file)


@pytest.mark.parametrize("picture", PHOTOGRAPHS)
def test_a_crop_lies_on_its_picture_whichever_comes_first(picture: Image.Image) -> None:
    crops = small(
        cropped(picture, 0.02, 0.02, 0.98, 0.98),
        cropped(picture, 0.05, 0, 1, 1),
        cropped(picture, 0, 0, 0.97, 0.97),
        ImageEnhance.Brightness(picture).enhance(0.9),
        encoded(picture),
    )
    whole = np.repeat(small(picture), len(crops), axis=0)
    found = mismatch(whole, crops)
    assert (found < 0.04).all()
    assert mismatch(crops, whole).tolist() == found.tolist()
    # Without a move the crops are as far from it as other pictures.
    unmoved = ((whole.astype(float) - crops) ** 2).mean(axis=(1, 2)) / crops.var(axis=(1, 2))
    assert (found[:3] < unmoved[:3] / 2).all()


def test_other_pictures_do_not_lie_on_each_other() -> None:
    every = small(*PHOTOGRAPHS)
    one, other = np.array([*permutations(range(len(every)), 2)]).T
    assert (mismatch(every[one], every[other]) > 0.3).all()


def test_a_pair_is_told_alike_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    every = small(*PHOTOGRAPHS)
    one, other = every[[0, 1, 2]], every[[1, 2, 3]]
    together = mismatch(one, other).tolist()
    monkeypatch.setattr(registration, "AT_ONCE", 2)
    assert mismatch(one, other).tolist() == together
    assert [mismatch(one[[i]], other[[i]])[0] for i in range(3)] == together
    assert mismatch(one[:0], other[:0]).tolist() == []


@given(st.integers(0, 255), st.integers(0, 255))
def test_blank_pictures_lie_on_each_other_and_on_nothing_else(one: int, other: int) -> None:
    blank = np.full((2, SIDE, SIDE), [[[one]], [[other]]], np.uint8)
    assert mismatch(blank[:1], blank[1:]) == [0]
    assert mismatch(blank[:1], small(PHOTOGRAPHS[0])) > 0.9
