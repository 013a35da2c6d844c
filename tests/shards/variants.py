"""One real photograph in the ways that files hold pictures, and what is to be seen of each."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SAMPLE = Path(__file__).parent.parent / "data" / "sample" / "www"
PHOTO = SAMPLE / "docs.mixwright.example" / "freedombox" / "images" / "pine64-plus.jpg"

# Linear light of Display P3's and sRGB's primaries as CIE XYZ under D50 (IEC 61966-2-1; P3 by the
# Bradford adaptation of SMPTE RP 431-2's primaries with D65).
P3 = [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
SRGB = [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]]
GAMMA = 2.2


@cache
def photo() -> Image.Image:
    """640 x 579 pixels, RGB."""
    with Image.open(PHOTO) as image:
        return image.convert("RGB")


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    """Says how a picture has to be turned."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def fading() -> Image.Image:
    """The photograph, transparent to the left and opaque to the right."""
    alpha = np.tile(np.linspace(0, 255, 640).astype(np.uint8), (579, 1))
    image = photo().convert("RGBA")
    image.putalpha(Image.fromarray(alpha))
    return image


def on_white(image: Image.Image) -> NDArray[np.float64]:
    """What RGBA shows before white, by the definition of "over" (Porter and Duff 1984)."""
    pixels = np.asarray(image.convert("RGBA"), float)
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def deep_png(pixels: NDArray[np.uint16]) -> bytes:
    """A PNG of 16 bits a channel, grey or RGB, which Pillow reads and does not write."""
    height, width = pixels.shape[:2]
    colour = 0 if pixels.ndim == 2 else 2
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in chunks)


def with_chunk(png: bytes, name: bytes, data: bytes) -> bytes:
    """`png` with one more chunk behind its header."""
    return png[:33] + chunk(name, data) + png[33:]


def with_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    """`jpeg` with one more segment at its beginning."""
    return jpeg[:2] + struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data + jpeg[2:]


def p3_profile() -> bytes:
    """An ICC profile of Display P3's primaries with a plain gamma (ICC.1:2001-04)."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    text = b"A wide one\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
    }
    for i, channel in enumerate((b"r", b"g", b"b")):
        tags[channel + b"XYZ"] = b"XYZ \0\0\0\0" + fixed(*(row[i] for row in P3))
        tags[channel + b"TRC"] = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(GAMMA * 256))
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249) + bytes(48)
    return head + struct.pack(">I", len(tags)) + table + body


def p3_to_srgb(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Colours of `p3_profile` in sRGB by its formula, cut off at the border of what sRGB has."""
    linear = (pixels / 255.0) ** GAMMA @ (np.linalg.inv(SRGB) @ P3).T
    linear = linear.clip(0, 1)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return curved * 255


def quantised() -> Image.Image:
    """The photograph in a palette of 64 colours."""
    return photo().quantize(64)


def _variants() -> dict[str, tuple[bytes, NDArray[np.float64]]]:
    """Every way, with the file's bytes and what is to be seen, of shape [579, 640, 3]."""
    image, sides = photo(), fading()
    grey = np.asarray(image.convert("L"))
    deep = np.asarray(image).astype(np.uint16) * 257
    frames = {"save_all": True, "append_images": [Image.new("RGB", image.size, "red")]}
    bilevel = image.convert("1")

    def rgb(of: Image.Image) -> NDArray[np.float64]:
        return np.asarray(of.convert("RGB"), float)

    return {
        "JPEG": (encoded(image, quality=95), rgb(image)),
        "progressive JPEG": (encoded(image, quality=95, progressive=True), rgb(image)),
        "grey JPEG": (encoded(image.convert("L"), quality=95), rgb(image.convert("L"))),
        "CMYK JPEG of Adobe": (encoded(image.convert("CMYK"), quality=95), rgb(image)),
        "PNG": (encoded(image, "PNG"), rgb(image)),
        "PNG of one bit": (encoded(bilevel, "PNG"), rgb(bilevel)),
        "palette": (encoded(quantised(), "PNG"), rgb(quantised())),
        "transparent PNG": (encoded(sides, "PNG"), on_white(sides)),
        "transparent grey": (encoded(sides.convert("LA"), "PNG"), on_white(sides.convert("LA"))),
        "transparent palette": (
            encoded(quantised(), "PNG", transparency=3),
            np.where(np.asarray(quantised())[..., None] == 3, 255.0, rgb(quantised())),
        ),
        "16-bit grey": (deep_png(grey.astype(np.uint16) * 257), rgb(image.convert("L"))),
        "16-bit RGB": (deep_png(deep), rgb(image)),
        "GIF": (encoded(quantised(), "GIF"), rgb(quantised())),
        "animated GIF": (encoded(quantised(), "GIF", **frames), rgb(quantised())),
        "animated PNG": (encoded(image, "PNG", **frames), rgb(image)),
        "animated WebP": (encoded(image, "WEBP", lossless=True, **frames), rgb(image)),
        "WebP": (encoded(image, "WEBP", lossless=True), rgb(image)),
        "transparent WebP": (encoded(sides, "WEBP", lossless=True, exact=True), on_white(sides)),
        "wide gamut": (
            encoded(image, "PNG", icc_profile=p3_profile()),
            p3_to_srgb(np.asarray(image)),
        ),
    }


VARIANTS: Callable[[], dict[str, tuple[bytes, NDArray[np.float64]]]] = cache(_variants)
NAMES = (
    "JPEG",
    "progressive JPEG",
    "grey JPEG",
    "CMYK JPEG of Adobe",
    "PNG",
    "PNG of one bit",
    "palette",
    "transparent PNG",
    "transparent grey",
    "transparent palette",
    "16-bit grey",
    "16-bit RGB",
    "GIF",
    "animated GIF",
    "animated PNG",
    "animated WebP",
    "WebP",
    "transparent WebP",
    "wide gamut",
)
