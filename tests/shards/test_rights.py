"""Notices of pictures: where they stand, which one counts, and what tells nothing."""

import io
import struct

import pytest
from PIL import Image

from shards.rights import MOST_CHARACTERS, rights
from tests.shards.variants import encoded, with_chunk, with_segment

NOTHING = {"creator": None, "copyright": None, "licence": None}
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
  xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
  xmlns:dc="http://purl.org/dc/elements/1.1/"
  xmlns:cc="http://creativecommons.org/ns#"
  xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/">
<rdf:Description rdf:about="">{}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""
MADE = "<dc:creator><rdf:Seq><rdf:li>Grace</rdf:li><rdf:li>Ada</rdf:li></rdf:Seq></dc:creator>"
RESERVED = "<dc:rights><rdf:Alt><rdf:li xml:lang='x-default'>© Grace</rdf:li></rdf:Alt></dc:rights>"
BY = "https://creativecommons.org/licenses/by/4.0/"


def small() -> Image.Image:
    return Image.new("RGB", (8, 8))


def told(body: bytes) -> dict[str, str | None]:
    with Image.open(io.BytesIO(body)) as image:
        image.load()
        return rights(image)


def with_exif(**options: object) -> bytes:
    tags = Image.Exif()
    tags[0x013B], tags[0x8298] = "Ada", "CC0"
    return encoded(small(), exif=tags, **options)


def iptc(**fields: str) -> bytes:
    """The segment of a JPEG in which Photoshop keeps IPTC's fields."""
    numbers = {"by_line": 80, "notice": 116}
    records = b"".join(
        struct.pack(">BBBH", 0x1C, 2, numbers[name], len(text.encode())) + text.encode()
        for name, text in fields.items()
    )
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(records)) + records
    return b"Photoshop 3.0\0" + block + bytes(len(records) % 2)


def test_a_picture_without_metadata_tells_nothing() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "GIF"):
        assert told(encoded(small(), kind)) == NOTHING


def test_exif() -> None:
    assert told(with_exif()) == NOTHING | {"creator": "Ada", "copyright": "CC0"}


def test_iptc() -> None:
    body = with_segment(encoded(small()), 0xED, iptc(by_line="Zoë", notice="© Zoë"))
    assert told(body) == NOTHING | {"creator": "Zoë", "copyright": "© Zoë"}


def test_texts_of_png() -> None:
    body = with_chunk(encoded(small(), "PNG"), b"tEXt", b"Author\0Ada")
    assert told(body) == NOTHING | {"creator": "Ada"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_xmp(kind: str) -> None:
    packet = PACKET.format(MADE + RESERVED + f"<cc:license rdf:resource='{BY}'/>").encode()
    if kind == "PNG":
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + packet
        body = with_chunk(encoded(small(), kind), b"iTXt", text)
    else:
        body = encoded(small(), kind, xmp=packet)
    assert told(body) == {"creator": "Grace", "copyright": "© Grace", "licence": BY}


@pytest.mark.parametrize(
    "licence",
    [
        f"<xmpRights:WebStatement>{BY}</xmpRights:WebStatement>",
        f"<rdf:Description xmpRights:WebStatement='{BY}'/>",
        f"<cc:license>{BY}</cc:license><xmpRights:WebStatement>no</xmpRights:WebStatement>",
    ],
)
def test_a_licence_is_written_in_several_ways(licence: str) -> None:
    body = encoded(small(), xmp=PACKET.format(licence).encode())
    assert told(body) == NOTHING | {"licence": BY}


def test_xmp_counts_before_iptc_and_exif_and_those_fill_its_gaps() -> None:
    body = with_exif(xmp=PACKET.format(MADE).encode())
    body = with_segment(body, 0xED, iptc(notice="© Zoë"))
    assert told(body) == NOTHING | {"creator": "Grace", "copyright": "© Zoë"}


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"<x",
        b"\xff\xfe<\0x\0",
        PACKET.format(MADE)[:-60].encode(),
        ('<!DOCTYPE x [<!ENTITY a "Eve">]>' + PACKET.format(MADE.replace("Grace", "&a;"))).encode(),
        PACKET.format(MADE + " " * 70_000).encode()[:65_000],
    ],
)
def test_a_packet_that_is_broken_or_hostile_tells_nothing(packet: bytes) -> None:
    assert told(encoded(small(), xmp=packet)) == NOTHING


def test_a_long_packet_is_not_parsed() -> None:
    packet = PACKET.format(MADE + " " * 70_000).encode()
    assert told(encoded(small(), "WEBP", xmp=packet)) == NOTHING


def test_a_notice_is_one_line_of_bounded_length() -> None:
    tags = Image.Exif()
    tags[0x8298] = "All\x00 rights\r\nreserved\x1b[0m" + "!" * 1000
    found = told(encoded(small(), exif=tags))["copyright"]
    assert found is not None and len(found) == MOST_CHARACTERS
    assert found.startswith("All") and found.isprintable()
