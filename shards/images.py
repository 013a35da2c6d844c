"""The image store: the bytes of images in WebDataset tars, and an index of where each one lies.

An index is a table of `schema.IMAGE`. A row names a tar, an offset and a length, so that reading
an image is one range read. Tars hold USTAR members with fixed metadata: the same images in the
same order give the same bytes.
"""

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from shards import storage
from shards.schema import IMAGE
from shards.storage import Location

MAX_PIXELS = 2**26  # 8192 x 8192, 192 MiB as RGB
DECODERS = ("JPEG", "PNG", "GIF", "WEBP")  # of Pillow's; the others never see a stranger's bytes
EXTENSIONS = {"jpeg": "jpg", "png": "png", "gif": "gif", "webp": "webp"}
MEMBER_EXTENSIONS = frozenset({*EXTENSIONS.values(), "jpeg"})

NOT_DECODABLE = "image_not_decodable"
TOO_MANY_PIXELS = "image_too_many_pixels"
OTHER_FORMAT = "image_format"
NOT_RESIZED = "image_not_resized"

# What images of formats that the store does not hold begin with, and where.
OTHER_SIGNATURES = (
    (0, b"BM"),
    (0, b"II*\0"),  # TIFF
    (0, b"MM\0*"),
    (0, b"\0\0\1\0"),  # ICO
    (0, b"8BPS"),  # Photoshop
    (0, b"\xff\x0a"),  # JPEG XL
    (0, b"\0\0\0\x0cJXL "),
    (0, b"\0\0\0\x0cjP  "),  # JPEG 2000
    (4, b"ftypavif"),
    (4, b"ftypheic"),
    (4, b"ftypmif1"),
)

# img2dataset's resizer silences the process's own stdout and stderr while it works; two at once
# would restore them in the wrong order.
_RESIZING = threading.Lock()


class ImageRejectedError(Exception):
    """Bytes that are not an image of the store; its only argument is the reason."""


@dataclass(frozen=True)
class Resize:
    """Store images whose longer side is above `max_side` pixels at that size, as JPEG."""

    max_side: int
    quality: int = 95


def inspect_image(body: bytes, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """The columns of `IMAGE` that the bytes of an image tell: hashes, size in pixels, format.

    The size is the header's, before any EXIF rotation, and is compared with `max_pixels` before
    anything is decoded; then the whole first frame is. The perceptual hash is of what is seen:
    upright and on white. Raises ImageRejectedError.
    """
    width, height, kind = _header(body, max_pixels)
    return {
        "sha256": hashlib.sha256(body).hexdigest(),
        "md5": hashlib.md5(body, usedforsecurity=False).hexdigest(),
        "phash": _decoded_phash(body),
        "width": width,
        "height": height,
        "format": kind,
    }


def _header(body: bytes, max_pixels: int) -> tuple[int, int, str]:
    """Width, height and format by the first bytes alone."""
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with Image.open(io.BytesIO(body), formats=DECODERS) as image:
            width, height = image.size
            # A phone's JPEG with a second picture inside opens as MPO.
            kind = {"mpo": "jpeg"}.get(kind := (image.format or "").lower(), kind)
    except bombs as error:
        raise ImageRejectedError(TOO_MANY_PIXELS) from error
    except Exception as error:  # a decoder fed with a stranger's bytes raises anything
        raise ImageRejectedError(_why_unknown(body)) from error
    if width * height > max_pixels:
        raise ImageRejectedError(TOO_MANY_PIXELS)
    return width, height, kind


def _why_unknown(body: bytes) -> str:
    """Another format by its signature, else no image at all."""
    head = body[:1024].lstrip().lower()
    drawing = head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head)
    other = any(body.startswith(mark, start) for start, mark in OTHER_SIGNATURES)
    return OTHER_FORMAT if drawing or other else NOT_DECODABLE


def _decoded_phash(body: bytes) -> str:
    """The perceptual hash of an image that decodes to its end; raises ImageRejectedError."""
    import imagehash  # not among what a reader of shards installs

    try:
        return str(imagehash.phash(open_image(body)))
    except Exception as error:  # a decoder fed with a stranger's bytes raises anything
        raise ImageRejectedError(NOT_DECODABLE) from error


def open_image(body: bytes) -> Image.Image:
    """The first frame as RGB: upright by its EXIF orientation, transparency over white.

    Raises what Pillow raises for bytes that `inspect_image` would reject.
    """
    with Image.open(io.BytesIO(body), formats=DECODERS) as image:
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to white
        return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)).convert("RGB")
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    layer = upright.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


class ImageTar:
    """A tar of images that is being written; members are named by their sha256."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.places: dict[str, tuple[int, int]] = {}

    def add(self, sha256: str, body: bytes, kind: str) -> tuple[int, int]:
        """Appends an image of a format, once; the offset and length of its data, in bytes."""
        if sha256 not in self.places:
            member = tarfile.TarInfo(f"{sha256}.{EXTENSIONS[kind]}")
            member.size = len(body)
            self.places[sha256] = (self._tar.offset + tarfile.BLOCKSIZE, len(body))
            self._tar.addfile(member, io.BytesIO(body))
        return self.places[sha256]


@contextmanager
def write_image_tar(place: Location) -> Iterator[ImageTar]:
    """A new tar of images, which is there, whole, when the block succeeds."""
    with (
        storage.atomic_path(place) as aside,
        aside.open("wb") as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        yield ImageTar(tar)


def store_images(
    fetched: Iterable[tuple[str, bytes | None, str | None]],
    place: Location,
    tar_name: str,
    resize: Resize | None = None,
    max_pixels: int = MAX_PIXELS,
) -> pa.Table:
    """Writes the images among `fetched` (URL, body, reason) to a tar; rows of `IMAGE` in order.

    `tar_name` is the tar's path below the store's root. With `resize`, hashes, width and height
    stay those of the original; `format` and the place are of the stored bytes.
    """
    with write_image_tar(place) as tar:
        rows = [
            {"url": url, "reason": reason}
            if body is None
            else {"url": url, **_stored(tar, tar_name, body, resize, max_pixels)}
            for url, body, reason in fetched
        ]
    return pa.Table.from_pylist(rows, schema=IMAGE)


def _stored(
    tar: ImageTar, tar_name: str, body: bytes, resize: Resize | None, max_pixels: int
) -> dict[str, Any]:
    """The columns of one downloaded body, which is in `tar` afterwards unless it has a reason."""
    try:
        facts, stored = stored_image(body, resize, max_pixels)
    except ImageRejectedError as rejected:
        return {"reason": str(rejected)}
    offset, length = tar.add(facts["sha256"], stored, facts["format"])
    return {**facts, "tar": tar_name, "offset": offset, "length": length}


def stored_image(
    body: bytes, resize: Resize | None = None, max_pixels: int = MAX_PIXELS
) -> tuple[dict[str, Any], bytes]:
    """The columns of `IMAGE` that an image's bytes tell, and the bytes to be stored.

    Those may be smaller: `format` is theirs, the rest is of the original. Any thread may call it.
    Raises ImageRejectedError.
    """
    facts = inspect_image(body, max_pixels)
    if resize is None or max(facts["width"], facts["height"]) <= resize.max_side:
        return facts, body
    return {**facts, "format": "jpeg"}, _resized(body, resize)


def _resized(body: bytes, resize: Resize) -> bytes:
    """`body` at most `max_side` pixels long, as JPEG; raises ImageRejectedError."""
    # The import takes a second, and would ask a package index for a newer albumentations.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from img2dataset.resizer import Resizer

    # The resizer heeds neither EXIF orientation nor palettes nor 16 bits: it gets plain RGB.
    plain = io.BytesIO()
    open_image(body).save(plain, "BMP")
    resizer = Resizer(
        image_size=resize.max_side,
        resize_mode="keep_ratio_largest",
        resize_only_if_bigger=True,
        encode_quality=resize.quality,
        encode_format="jpg",
        skip_reencode=True,
    )
    with _RESIZING:
        small, *_, error = resizer(plain)
    if error is not None:
        raise ImageRejectedError(NOT_RESIZED) from ValueError(error)
    return bytes(small)


def read_image(root: str | Location, tar: str, offset: int, length: int) -> bytes:
    """`length` bytes at `offset` of `root/tar`; raises EOFError if the tar ends before."""
    return storage.RangeReader(storage.location(root) / tar).read(offset, length)


def read_images(root: str | Location, rows: pa.Table) -> list[bytes]:
    """The stored images of `rows` (tar, offset, length), in their order.

    Reads each tar from front to back; of an object store several ranges and tars at once. Raises
    EOFError as `read_image` does, and ValueError if a row has no image.
    """
    columns = [rows[name].to_pylist() for name in ("tar", "offset", "length")]
    if None in columns[0]:
        raise ValueError("a row without a tar has no image to read")
    places = list(zip(*columns, strict=True))
    root = storage.location(root)
    each = map if isinstance(root, Path) else storage.in_parallel
    tars = groupby(sorted(set(places)), key=lambda place: place[0])
    found = each(partial(_read_tar, root), [(tar, list(group)) for tar, group in tars])
    bodies = {place: body for of_tar in found for place, body in of_tar.items()}
    return [bodies[place] for place in places]


Place = tuple[str, int, int]  # tar, offset and length


def _read_tar(root: Location, asked: tuple[str, list[Place]]) -> dict[Place, bytes]:
    tar, places = asked
    ranges = [(offset, length) for _, offset, length in places]
    bodies = storage.RangeReader(root / tar).read_many(ranges)
    return dict(zip(places, bodies, strict=True))


def adopt_tar(place: Location, tar_name: str, max_pixels: int = MAX_PIXELS) -> pa.Table:
    """Rows of `IMAGE` for the images of an existing WebDataset tar, to be read where they are.

    Hashes, size and format are measured on the bytes in the tar, the only original there is. The
    URL is that of the sample's `.json` (img2dataset writes it), else `tar_name/member`. The tar
    is read once, from front to back. Raises tarfile.ReadError for a tar that is compressed, cut
    short or none.
    """
    urls: dict[str, str | None] = {}
    found: list[tuple[tarfile.TarInfo, dict[str, Any]]] = []
    with storage.open_stream(place) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            if member.isreg() and _extension(member) == "json":
                urls[_key(member)] = _sidecar_url(tar, member)
            elif member.isreg() and _extension(member) in MEMBER_EXTENSIONS:
                found.append((member, _adopted(tar, member, tar_name, max_pixels)))
    rows = [{"url": urls.get(_key(m)) or f"{tar_name}/{m.name}"} | facts for m, facts in found]
    return pa.Table.from_pylist(rows, schema=IMAGE)


def _key(member: tarfile.TarInfo) -> str:
    """WebDataset's name of a sample: the path up to the first dot of its last part."""
    folder, _, name = member.name.rpartition("/")
    return f"{folder}/{name.split('.')[0]}"


def _extension(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, "only regular files are asked for"
    return file.read()


def _sidecar_url(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    try:
        facts = json.loads(_contents(tar, member))
    except ValueError:  # a sample of another maker, whose .json is none
        return None
    url = facts.get("url") if isinstance(facts, dict) else None
    return url if isinstance(url, str) else None


def _adopted(
    tar: tarfile.TarFile, member: tarfile.TarInfo, tar_name: str, max_pixels: int
) -> dict[str, Any]:
    try:
        facts = inspect_image(_contents(tar, member), max_pixels)
    except ImageRejectedError as rejected:
        return {"reason": str(rejected)}
    return {**facts, "tar": tar_name, "offset": member.offset_data, "length": member.size}
