"""Pictures of any colour model as 8-bit sRGB on white, which is what models are trained on."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MOST_PROFILE_BYTES = 2**22  # CMYK profiles of printers have up to two million


def srgb(image: Image.Image) -> Image.Image:
    """A decoded image as RGB: its colour profile applied, transparent parts over white.

    Palettes, greyscale, 16 bits a channel (of which the upper eight are kept) and CMYK are all
    converted; a profile that cannot be used, or is of another colour model, is left out of account.
    """
    profile = image.info.get("icc_profile")
    plain = _eight_bits(image)
    transform = _to_srgb(profile, plain.mode) if profile else None
    if transform is not None:
        plain = transform.apply(plain)
    if plain.mode == "RGB":
        return plain  # which convert would copy
    if plain.mode != "RGBA":
        return plain.convert("RGB")
    white = Image.new("RGBA", plain.size, "white")
    return Image.alpha_composite(white, plain).convert("RGB")


def reduced(image: Image.Image, least: int) -> Image.Image:
    """A decoded image by averages of 2 x 2, 4 x 4, ... pixels, its shorter side still `least`.

    Transparent pixels lend no colour. Copies of a large image would take a gigabyte and more.
    """
    factor = 1
    while min(image.size) >= 2 * factor * least:
        factor *= 2
    if factor == 1:
        return image
    plain = _eight_bits(image)
    if plain.mode != "RGBA":
        return plain.reduce(factor)
    return plain.convert("RGBa").reduce(factor).convert("RGBA")


def _eight_bits(image: Image.Image) -> Image.Image:
    """In mode L, RGB, RGBA or CMYK."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to white
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From a profile to sRGB; None where there is nothing to do or no way to do it."""
    if len(profile) > MOST_PROFILE_BYTES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(source).startswith("sRGB"):
            return None
        target = "RGBA" if mode == "RGBA" else "RGB"
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, target)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
