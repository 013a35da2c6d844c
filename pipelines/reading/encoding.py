"""Bytes of a page to text, when what the page and its server say of them may be wrong."""

import re
from collections.abc import Iterator

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
META = re.compile(
    rb"<meta[^>]{1,200}charset\s*=\s*[\"']?\s*([\w.:-]+)|<\?xml[^>]{1,200}encoding=[\"']([\w.:-]+)",
    re.IGNORECASE,
)
SAMPLE = 1024  # bytes that the HTML standard looks for a declaration in
# What the standard calls these is more than Python's codecs of the same names know.
SUPERSETS = {
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
}
DEFAULT = "cp1252"  # of servers and browsers, and so the one that most often means nothing
NOT_ASCII = bytes(range(128))
RUN = re.compile(rb"[\x80-\xff]{2,}")
TOLERATED = 0.1  # undecodable characters to bytes that are not ASCII
ESCAPE = b"\x1b"
ESCAPES = (ESCAPE + b"$B", ESCAPE + b"$@")  # of ISO-2022-JP
WIDE = 0.3  # of every other byte is zero in UTF-16 ...
OTHER = 0.1  # ... and less of those between


def decode(data: bytes, charset: str | None) -> str:
    """The text of `data`, which an HTTP header says is in `charset`. Nothing raises.

    The first of these that fits: a byte order mark; the zeros of UTF-16; the escapes of
    ISO-2022-JP; UTF-8 without an error, whatever is declared; the header's charset; the page's
    own; UTF-8 with a few errors; what it looks like to a detector; Windows-1252.

    A charset fits if at most a tenth as many characters are undecodable as there are bytes beyond
    ASCII, so that a page with a slip or a cut end keeps its encoding. A declared Windows-1252 (or
    ISO-8859-1, the default of servers) is asked last where most bytes beyond ASCII stand side by
    side, which is how other scripts look: in the Latin script they are single letters.
    """
    for mark, encoding in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if wide := _wide(data):
        return data.decode(wide, "replace")
    # One byte is found much faster than three, and nearly no page has it.
    if ESCAPE in data and data.isascii() and any(escape in data for escape in ESCAPES):
        return data.decode("iso2022_jp", "replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    declared = [name for name in (_known(charset), _known(_declared(data))) if name]
    beyond = data.translate(None, NOT_ASCII)
    for encoding in _candidates(data, declared, len(beyond)):
        text = data.decode(encoding, "replace")
        if text.count("\ufffd") <= TOLERATED * len(beyond):
            return text
    return data.decode(DEFAULT, "replace")


def _wide(data: bytes) -> str | None:
    """UTF-16 that has no mark, by the zeros of its ASCII characters."""
    even, odd = _zeros(data[:SAMPLE:2]), _zeros(data[1:SAMPLE:2])
    if odd > WIDE and even < OTHER:
        return "utf-16-le"
    return "utf-16-be" if even > WIDE and odd < OTHER else None


def _zeros(data: bytes) -> float:
    return data.count(0) / max(len(data), 1)


def _declared(data: bytes) -> str | None:
    found = META.search(data, 0, SAMPLE)
    return (found[1] or found[2]).decode("ascii", "replace") if found else None


def _known(charset: str | None) -> str | None:
    """A codec for the name of a charset, None if it is no charset's, or UTF-16.

    What reads as ASCII is not in UTF-16, whatever it says.
    """
    named = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    if named is None or named.startswith("utf-16"):
        return None
    return SUPERSETS.get(named, named)


def _candidates(data: bytes, declared: list[str], beyond: int) -> Iterator[str]:
    """Codecs in the order in which they are tried."""
    in_runs = sum(len(run) for run in RUN.findall(data))
    doubted = DEFAULT if in_runs > beyond / 2 else None
    yield from (name for name in declared if name != doubted)
    yield "utf-8"
    yield _known(detect_encoding(data)) or DEFAULT
