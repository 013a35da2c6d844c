"""Pictures made smaller, and JPEGs, by img2dataset's resizer."""

import importlib.util
import io
import os
import threading
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from shards.pixels import view

# The resizer silences the process's own stdout and stderr while it works; two at once would restore
# them in the wrong order.
_TURN = threading.Lock()


def resized(picture: Image.Image, shorter_side: int, quality: int) -> bytes:
    """An RGB picture as JPEG, its shorter side `shorter_side` pixels or as many as it has.

    Any thread may call it. Raises ValueError for what the resizer cannot encode.
    """
    import cv2  # not among what a reader of shards installs

    # It gets the format that OpenCV writes and reads in the least time.
    _, plain = cv2.imencode(".bmp", cv2.cvtColor(view(picture), cv2.COLOR_RGBA2BGR))
    with _TURN:
        small, *_, error = resizer(shorter_side, quality)(io.BytesIO(plain.data))
    if error is not None:
        raise ValueError(error)
    return bytes(small)


@cache
def resizer(shorter_side: int, quality: int) -> Any:
    """What takes the stream of an encoded picture, and gives a JPEG, four sides and an error."""
    return module().Resizer(
        image_size=shorter_side,
        resize_mode="keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=quality,
        encode_format="jpg",
        skip_reencode=False,
    )


@cache
def module() -> ModuleType:
    """The module of the resizer alone: img2dataset's package loads torch, which takes seconds.

    Raises ModuleNotFoundError where there is no img2dataset.
    """
    # Albumentations would ask a package index for a newer one.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    package = importlib.util.find_spec("img2dataset")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("img2dataset", name="img2dataset")
    place = Path(package.origin).with_name("resizer.py")
    spec = importlib.util.spec_from_file_location("img2dataset_resizer", place)
    assert spec is not None and spec.loader is not None, "its name ends in .py"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
