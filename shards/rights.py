"""Who made a picture and what it may be used for, by its own metadata.

Stored pictures lose their metadata, among which are the places and faces of people; a licence such
as Creative Commons' asks that its notices stay, so those are kept beside the picture.
"""

from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from PIL import IptcImagePlugin
from PIL.ImageFile import ImageFile

MOST_CHARACTERS = 500  # of a notice
MOST_XMP_BYTES = 2**16

ARTIST, COPYRIGHT = 0x013B, 0x8298  # EXIF
BY_LINE, NOTICE = (2, 80), (2, 116)  # IPTC
DC = "{http://purl.org/dc/elements/1.1/}"
XMP_RIGHTS = "{http://ns.adobe.com/xap/1.0/rights/}"
CC = "{http://creativecommons.org/ns#}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"


def rights(image: ImageFile) -> dict[str, str | None]:
    """`creator`, `copyright` and `licence` of an image that is decoded, each null if not told.

    The first that tells it counts: XMP (dc:creator; dc:rights; cc:license or the web statement of
    rights), IPTC (by-line, copyright notice), EXIF (Artist, Copyright), PNG's texts (Author,
    Copyright). Metadata that cannot be read tells nothing.
    """
    found: dict[str, str | None] = dict.fromkeys(("creator", "copyright", "licence"))
    for read in (_xmp, _iptc, _exif, _texts):
        for name, value in _read(read, image).items():
            found[name] = found[name] or _clean(value)
    return found


def _read(read: Any, image: ImageFile) -> Mapping[str, Any]:
    try:
        return dict(read(image))
    except Exception:  # a parser fed with a stranger's bytes raises anything
        return {}


def _clean(value: Any) -> str | None:
    """A notice as one line of at most `MOST_CHARACTERS`, null if nothing is left."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:MOST_CHARACTERS] or None


def _exif(image: ImageFile) -> Iterator[tuple[str, Any]]:
    exif = image.getexif()
    yield "creator", exif.get(ARTIST)
    yield "copyright", exif.get(COPYRIGHT)


def _iptc(image: ImageFile) -> Iterator[tuple[str, Any]]:
    if "photoshop" in image.info:  # the block of a JPEG that IPTC's fields are in
        fields = IptcImagePlugin.getiptcinfo(image) or {}
        yield "creator", _first(fields.get(BY_LINE))
        yield "copyright", _first(fields.get(NOTICE))


def _first(value: bytes | list[bytes] | None) -> bytes | None:
    return value[0] if isinstance(value, list) else value


def _texts(image: ImageFile) -> Iterator[tuple[str, Any]]:
    yield "creator", image.info.get("Author")
    yield "copyright", image.info.get("Copyright")


def _xmp(image: ImageFile) -> Iterator[tuple[str, Any]]:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    text = packet.decode() if isinstance(packet, bytes) else str(packet)
    # No document type, and so no entities, which a few bytes could make gigabytes of.
    if not text or len(text) > MOST_XMP_BYTES or "<!" in text:
        return
    tree = ElementTree.fromstring(text.strip("\0\ufeff \n"))  # noqa: S314
    yield "creator", _item(tree, f"{DC}creator")
    yield "copyright", _item(tree, f"{DC}rights")
    yield "licence", _property(tree, f"{CC}license") or _property(tree, f"{XMP_RIGHTS}WebStatement")


def _item(tree: ElementTree.Element, name: str) -> str | None:
    """The first item of a list, which creators and rights are in XMP."""
    return next((item.text for item in tree.iterfind(f".//{name}//{RDF}li")), None)


def _property(tree: ElementTree.Element, name: str) -> str | None:
    """A property as any of XMP's three ways to write it: an element, a link or an attribute."""
    for element in tree.iter(name):
        return element.get(f"{RDF}resource") or element.text
    return next((node.get(name) for node in tree.iter() if node.get(name)), None)
