"""The image store: the bytes of images in WebDataset tars, and an index of where each one lies.

An index is a table of `schema.IMAGE`. A row names a tar, an offset and a length, so that reading
an image is one range read. Tars hold USTAR members with fixed metadata: the same images in the
same order give the same bytes.
"""

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image
from PIL.ImageFile import ImageFile

from shards import storage
from shards.colours import reduced, srgb
from shards.rights import rights
from shards.schema import IMAGE
from shards.storage import Location

MAX_PIXELS = 2**26  # 8192 x 8192, 192 MiB as RGB
DECODERS = ("JPEG", "PNG", "GIF", "WEBP")  # of Pillow's; the others never see a stranger's bytes
EXTENSIONS = {"jpeg": "jpg", "png": "png", "gif": "gif", "webp": "webp"}
MEMBER_EXTENSIONS = frozenset({*EXTENSIONS.values(), "jpeg"})
TEXT_EXTENSIONS = ("json", "txt")
MAX_BYTES = 100_000_000  # of a member of a tar that another program wrote
MEASURED_SIDE = 378  # pixels of the shorter side that JPEGs are decoded to at least

ORIENTATION = 0x0112  # EXIF's tag, and how an image is turned upright
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
METADATA = frozenset(
    {"comment", "exif", "icc_profile", "xmp"}
)  # as Pillow tells them, beside texts

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

# Decoding and measuring takes up to 28 bytes a pixel (a PNG or WebP with transparency).
LARGE_PIXELS = 2**23
_LARGE = threading.Lock()


class ImageRejectedError(Exception):
    """Bytes that are not an image of the store; its only argument is the reason."""


@dataclass(frozen=True)
class Resize:
    """Store images as `stored_image` says: at most `shorter_side` pixels across, and plain."""

    shorter_side: int
    quality: int = 95  # of JPEG, 1 to 100; img2dataset's default


@dataclass(frozen=True)
class Inspected:
    """An image that decodes to its end.

    Attributes:
        facts: its columns of `IMAGE`, but for where it is stored.
        seen: upright, in sRGB and on white; of a large JPEG, a half, quarter or eighth in size.
        plain: whether any reader sees the same in its bytes, and nothing is told in them besides.
    """

    facts: dict[str, Any]
    seen: Image.Image
    plain: bool


def inspect_image(body: bytes, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """The columns of `IMAGE` that the bytes of an image tell; where it is stored is not among them.

    The size is the header's, before any EXIF rotation, and is compared with `max_pixels` before
    anything is decoded; then the whole first frame is. What is measured is what is seen: upright,
    in sRGB and on white. Raises ImageRejectedError.
    """
    return _inspected(_opened(body, max_pixels), body, MEASURED_SIDE).facts


def _inspected(image: ImageFile, body: bytes, least: int) -> Inspected:
    try:
        facts = _header(image)
        seen = _seen(image, least)
        plain = not facts["animated"] and facts["format"] != "gif" and _is_plain(image, body)
        return Inspected(facts | _hashes(body) | _measures(seen) | rights(image), seen, plain)
    except Exception as error:  # a decoder fed with a stranger's bytes raises anything
        raise ImageRejectedError(NOT_DECODABLE) from error


def _header(image: ImageFile) -> dict[str, Any]:
    # A phone's JPEG with a second picture inside opens as MPO; that is no animation.
    kind = {"mpo": "jpeg"}.get(kind := (image.format or "").lower(), kind)
    animated = kind != "jpeg" and bool(getattr(image, "is_animated", False))
    facts = {"format": kind, "original_format": kind, "animated": animated}
    return facts | {"width": image.width, "height": image.height}


def _hashes(body: bytes) -> dict[str, Any]:
    md5 = hashlib.md5(body, usedforsecurity=False)
    return {"sha256": hashlib.sha256(body).hexdigest(), "md5": md5.hexdigest()}


def _measures(seen: Image.Image) -> dict[str, Any]:
    from shards.pixels import measure

    return measure(seen)


def _opened(body: bytes, max_pixels: int) -> ImageFile:
    """An image of which only the header is read."""
    bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        image = Image.open(io.BytesIO(body), formats=DECODERS)
    except bombs as error:
        raise ImageRejectedError(TOO_MANY_PIXELS) from error
    except Exception as error:  # a decoder fed with a stranger's bytes raises anything
        raise ImageRejectedError(_why_unknown(body)) from error
    if image.width * image.height > max_pixels:
        raise ImageRejectedError(TOO_MANY_PIXELS)
    return image


def _why_unknown(body: bytes) -> str:
    """Another format by its signature, else no image at all."""
    head = body[:1024].lstrip().lower()
    drawing = head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in head)
    other = any(body.startswith(mark, start) for start, mark in OTHER_SIGNATURES)
    return OTHER_FORMAT if drawing or other else NOT_DECODABLE


def open_image(body: bytes) -> Image.Image:
    """The first frame as RGB: upright by its EXIF orientation, in sRGB, transparency over white.

    Raises what Pillow raises for bytes that `inspect_image` would reject.
    """
    with Image.open(io.BytesIO(body), formats=DECODERS) as image:
        return _seen(image)


def _seen(image: ImageFile, least: int | None = None) -> Image.Image:
    """What is to be seen of an opened image.

    With `least`, a JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 at which its shorter
    side has as many pixels, which takes a part of the time and memory; other images above
    `LARGE_PIXELS` are averaged likewise.
    """
    if least is not None:
        image.draft(None, (least, least))
    image.load()
    turn = TURNS.get(_orientation(image))
    large = image.width * image.height > LARGE_PIXELS
    small = reduced(image, least) if large and least is not None else image
    return srgb(small if turn is None else small.transpose(turn))


def _orientation(image: ImageFile) -> int:
    """EXIF's, 1 to 8; 1, which is upright, where the metadata cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # a parser fed with a stranger's bytes raises anything
        return 1


def _is_plain(image: ImageFile, body: bytes) -> bool:
    """Whether a decoded image is 8-bit RGB, grey or palette, opaque, and tells nothing else."""
    deep = image.format == "PNG" and body[24] == 16  # bits, as its header says
    segments = {name for name, _ in getattr(image, "applist", ())}
    besides = [getattr(image, name, None) for name in ("text", "private_chunks")]  # of PNG
    return (
        image.mode in ("RGB", "L", "P", "1")
        and not deep
        and not image.has_transparency_data
        and segments <= {"APP0", "APP14"}  # of JPEG: JFIF's and Adobe's colour models
        and METADATA.isdisjoint(image.info)
        and not any(besides)
    )


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

    `tar_name` is the tar's path below the store's root. With `resize`, what is stored is as
    `stored_image` says.
    """
    known: dict[bytes, dict[str, Any]] = {}  # what is fetched from many URLs is decoded once
    rows = []
    with write_image_tar(place) as tar:
        for url, body, reason in fetched:
            told: dict[str, Any] = {"reason": reason}
            if body is not None:
                digest = hashlib.sha256(body).digest()
                if digest not in known:
                    known[digest] = _stored(tar, tar_name, body, resize, max_pixels)
                told = known[digest]
            rows.append({"url": url, **told})
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

    With `resize` any reader can show those as they are. They are the image's own, if it is no
    larger than that says and plain: an upright still JPEG, PNG or WebP of 8 bits, opaque, without a
    colour profile and without metadata. Else they are a JPEG of its first frame, upright, in sRGB,
    on white and without metadata; its shorter side has `shorter_side` pixels or as many as it had.
    `format` is theirs, all other columns are of the original. Any thread may call it.

    Raises ImageRejectedError.
    """
    least = max(MEASURED_SIDE, resize.shorter_side if resize else 0)
    image = _opened(body, max_pixels)
    with _turn(image):
        found = _inspected(image, body, least)
        facts = found.facts
        small = resize and min(facts["width"], facts["height"]) <= resize.shorter_side
        if resize is None or (small and found.plain):
            return facts, body
        return facts | {"format": "jpeg"}, _resized(found.seen, resize)


def _turn(image: ImageFile) -> AbstractContextManager[Any]:
    """What a thread has to hold while it decodes an image: large ones take turns."""
    return _LARGE if image.width * image.height > LARGE_PIXELS else nullcontext()


def _resized(seen: Image.Image, resize: Resize) -> bytes:
    """A JPEG; raises ImageRejectedError."""
    from shards.resizing import resized  # not among what a reader of shards installs

    # The resizer heeds neither EXIF orientation nor profiles, palettes or 16 bits: it gets plain
    # RGB.
    try:
        return resized(seen, resize.shorter_side, resize.quality)
    except ValueError as error:
        raise ImageRejectedError(NOT_RESIZED) from error


def read_image(root: str | Location, tar: str, offset: int, length: int) -> bytes:
    """`length` bytes at `offset` of a tar below `root`; raises EOFError if the tar ends before."""
    return storage.RangeReader(storage.below(storage.location(root), tar)).read(offset, length)


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
    bodies = storage.RangeReader(storage.below(root, tar)).read_many(ranges)
    return dict(zip(places, bodies, strict=True))


@dataclass(frozen=True)
class Member:
    """A picture in a tar: what it is called, and where its bytes are."""

    name: str
    offset: int
    body: bytes | None  # None of one that is larger than was asked for
    length: int


@dataclass(frozen=True)
class Sample:
    """Members of a WebDataset tar that stand together and share a key."""

    key: str
    offset: int  # of its first member's data
    pictures: list[Member]
    texts: dict[str, bytes | None]  # by extension, without those of others than "txt" and "json"

    @property
    def facts(self) -> dict[str, Any]:
        """What its `.json` says; nothing of a sample of another maker, whose .json is none."""
        try:
            facts = json.loads(self.texts.get("json") or b"{}")
        except (ValueError, RecursionError):
            return {}
        return facts if isinstance(facts, dict) else {}


def tar_samples(
    place: Location, max_bytes: int = MAX_BYTES, max_text: int = MAX_BYTES
) -> Iterator[Sample]:
    """The samples of a WebDataset tar, which is read once, from front to back.

    Of a picture above `max_bytes` and a text above `max_text` the bytes are None. Raises
    tarfile.ReadError where the tar ends too soon, and at once if it is compressed or none.
    """
    with storage.open_stream(place) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        members = (member for member in tar if member.isreg() and not member.issparse())
        for key, group in groupby(members, _key):
            sample = Sample(key, -1, [], {})
            for member in group:
                kind = _extension(member)
                if sample.offset < 0:
                    sample = replace(sample, offset=member.offset_data)
                if kind in MEMBER_EXTENSIONS:
                    body = _contents(tar, member, max_bytes)
                    found = Member(member.name, member.offset_data, body, member.size)
                    sample.pictures.append(found)
                elif kind in TEXT_EXTENSIONS:
                    sample.texts[kind] = _contents(tar, member, max_text)
            yield sample


def adopt_tar(place: Location, tar_name: str, max_pixels: int = MAX_PIXELS) -> pa.Table:
    """Rows of `IMAGE` for the images of an existing WebDataset tar, to be read where they are.

    The URL is that of the sample's `.json` (img2dataset writes it), else `tar_name/member`. Raises
    what `tar_samples` raises.
    """
    rows = []
    for sample in tar_samples(place):
        url = sample.facts.get("url")
        for picture in sample.pictures:
            named = url if isinstance(url, str) else f"{tar_name}/{picture.name}"
            rows.append({"url": named} | adopted(picture, tar_name, max_pixels))
    return pa.Table.from_pylist(rows, schema=IMAGE)


def adopted(picture: Member, tar_name: str, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """The columns of `IMAGE`, but for the URL, of a picture that stays in its tar.

    Hashes, size and format are measured on the bytes in the tar, the only original there is.
    """
    if picture.body is None:
        return {"reason": "too_large"}
    try:
        facts = inspect_image(picture.body, max_pixels)
    except ImageRejectedError as rejected:
        return {"reason": str(rejected)}
    return {**facts, "tar": tar_name, "offset": picture.offset, "length": picture.length}


def _key(member: tarfile.TarInfo) -> str:
    """WebDataset's name of a sample: the path up to the first dot of its last part."""
    folder, _, name = member.name.rpartition("/")
    return f"{folder}/{name.split('.')[0]}".lstrip("/")


def _extension(member: tarfile.TarInfo) -> str:
    return member.name.rpartition("/")[2].partition(".")[2].lower()


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo, most: int) -> bytes | None:
    if member.size > most:
        return None
    file = tar.extractfile(member)
    assert file is not None, "only regular files are asked for"
    return file.read()
