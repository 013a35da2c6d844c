"""The text of a page as blocks, with the elements around them: what `prose` decides on.

The tree is read as it is written out, as a stream of tags: a walk over its nodes in Python costs
several times more.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from html import unescape
from itertools import accumulate

INSTRUCTION = re.compile(r"<\?[^>]*>")
TAG = re.compile(r"<([^>]*)>")
CLASS = re.compile(r' class="([^"]*)"')


def words(text: str) -> frozenset[str]:
    """The words of `text`, as a set."""
    return frozenset(text.split())


# Without text of their own, or with text that no reader takes for the page's.
SILENT = words(
    "noscript template svg button select textarea datalist object audio video canvas map"
)
INLINE = words(
    "abbr acronym b bdi bdo big cite code data del dfn em font i ins kbd label mark math nobr q "
    "rb rp rt ruby s samp small span strike strong sub sup time tt u var"
)
VOID = words(
    "img wbr input meta link source track area base basefont bgsound col embed frame hr keygen "
    "param"
)
# What a tag does to the text, where it does not end a block: those that have a closing tag first.
INLINE_OPEN, LINK_OPEN, HIDDEN, LINK_CLOSE, BREAK, INLINE_CLOSE, EMPTY = range(7)
DEPTHS = (1, 1, 1, -1, 0, -1, 0)
KINDS = (
    dict.fromkeys(INLINE, INLINE_OPEN)
    | {f"/{tag}": INLINE_CLOSE for tag in INLINE}
    | dict.fromkeys(SILENT, HIDDEN)
    | dict.fromkeys(VOID, EMPTY)
    | {"a": LINK_OPEN, "/a": LINK_CLOSE, "br": BREAK}
)
# Line ends before and after an element: a cell has none, a list item one, a paragraph two.
GAPS = dict.fromkeys(words("li dt dd tr caption legend option optgroup"), 1) | {"td": 0, "th": 0}
HEADINGS = {f"h{level}": level for level in range(1, 7)}
SUBTITLES = words("h2 h3 h4 h5 h6")
ITEMS = words("li dd td pre")
SEPARATORS = (" ", "\n", "\n\n")
# Classes of phrases that are no part of a sentence.
DECORATION = re.compile(
    r"headerlink|edit-?section|screen-reader|sr-only|visually-?hidden|caption|credit|copyright|"
    r"anchor-?link",
    re.IGNORECASE,
)
# Bytes of text (in UTF-8, where an ideograph weighs about what it says) that make a paragraph.
PARAGRAPH = 60
# Below this length a line that ends like no sentence is a headline, a caption or a label.
HEADLINES = 75
# The most that a block of code weighs: what is said about it is the text.
CODE = 120
# Of a block's text, the share of links that makes it a reference rather than a paragraph.
LINK_DENSITY = 0.6
ENDS = frozenset(".!?:;…。！？：»”\"'’)]")


@dataclass
class Blocks:
    """The blocks of text of a page and the elements around them, in document order.

    Of each block: text, gap before it (0 cell, 1 line, 2 paragraph), bytes of link text, number
    of links, the element that it stands in and the tag that it stands within. Of each block-level
    element: tag, attributes, parent and its blocks, from `first` to before `last`. `mass` is
    cumulative: mass[j] - mass[i] is that of blocks i to j, as are `size` and `linked` (bytes) and
    `anchors`.
    """

    texts: list[str] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    within: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    masses: list[int] = field(default_factory=list)
    mass: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    linked: list[int] = field(default_factory=list)
    anchors: list[int] = field(default_factory=list)

    def held(self, node: int) -> int:
        """The mass inside an element."""
        return self.mass[self.last[node]] - self.mass[self.first[node]]


def read_blocks(html: str) -> Blocks:
    """The blocks of a tree that was written out, in one pass over its tags.

    One loop, since a call for each tag would cost as much as the rest of the extraction.
    """
    page = Blocks()
    texts, tags, said, parents = page.texts, page.tags, page.attributes, page.parents
    firsts, lasts = page.first, page.last
    gaps, links, counts, owners = page.gaps, page.links, page.counts, page.owners
    run: list[str] = []
    linked = count = pre = skip = 0
    gap, node, inside = 2, -1, False

    def flush() -> None:
        nonlocal linked, count, gap
        text = "".join(run)
        run.clear()
        if spoken := text.split():
            text = text.strip("\n") if pre else " ".join(spoken)
            texts.append(unescape(text) if "&" in text else text)
            gaps.append(gap)
            links.append(linked if linked < len(text) else len(text))
            counts.append(count)
            owners.append(node)
            gap = 0
        linked = count = 0

    kinds, around = KINDS, GAPS
    pieces = _pieces(html)
    for tag, text in zip(pieces[1::2], pieces[2::2], strict=False):
        kind, attributes = kinds.get(tag), ""
        if kind is None and " " in tag:
            end = tag.index(" ")
            tag, attributes = tag[:end], tag[end:]
            kind = kinds.get(tag)
        if skip:
            skip += (-1 if tag[0] == "/" else 1) if kind is None else DEPTHS[kind]
            if skip:
                continue
        elif kind is None:
            if run:
                flush()
            if tag[0] != "/":
                parents.append(node)
                node = len(tags)
                tags.append(tag)
                said.append(attributes)
                firsts.append(len(texts))
                lasts.append(0)
                pre += tag == "pre"
            elif node >= 0:
                tag = tags[node]
                lasts[node] = len(texts)
                node = parents[node]
                pre -= tag == "pre"
            if gap < 2:
                gap = around.get(tag, 2) or gap
        elif kind >= INLINE_CLOSE:
            pass
        elif kind == LINK_CLOSE:
            inside = False
        elif kind == BREAK:
            if run:
                flush()
            gap = gap + 1 if gap < 2 else 2
        elif kind == HIDDEN or (attributes and _is_decoration(attributes)):
            skip = 1
            continue
        elif kind == LINK_OPEN and "href=" in attributes:
            inside = True
            count += 1
        if text and (run or pre or not text.isspace()):
            run.append(text)
            if inside:
                linked += len(text)
    if run:
        flush()
    return _summed(page)


def _pieces(html: str) -> list[str]:
    """The texts and the insides of the tags of elements, written out, in turn.

    Attribute values and texts hold no "<" and ">": they are escaped. Broken names may hold "<".
    """
    if "<!--" in html:
        before, *rest = html.split("<!--")
        html = before + "".join(piece.partition("-->")[2] for piece in rest)
    # A lone "?" is rare, and found faster than two characters of which one is all over the page.
    if "?" in html and "<?" in html:
        html = INSTRUCTION.sub("", html)
    pieces = _split(html)
    if len(pieces) != 2 * html.count("<") + 1:
        pieces = _split(TAG.sub(lambda tag: f"<{tag[1].replace('<', '?')}>", html))
    return pieces


def _split(html: str) -> list[str]:
    return html.replace("<", ">").split(">")


def _is_decoration(attributes: str) -> bool:
    match = CLASS.search(attributes) if "class=" in attributes else None
    return match is not None and _decorates(match[1][:200])


@lru_cache(1 << 14)
def _decorates(names: str) -> bool:
    return DECORATION.search(names) is not None


def _summed(page: Blocks) -> Blocks:
    page.within = [page.tags[node] for node in page.owners]
    page.masses = list(map(_mass, page.texts, page.links, page.within))
    page.mass = [0, *accumulate(page.masses)]
    page.size = [0, *accumulate(map(len, page.texts))]
    page.linked = [0, *accumulate(page.links)]
    page.anchors = [0, *accumulate(page.counts)]
    return page


def _mass(text: str, linked: int, tag: str) -> int:
    """Bytes outside links of a block that is a paragraph, else 0; code weighs little."""
    length = len(text)
    if length * 4 < PARAGRAPH or linked >= length * LINK_DENSITY:
        return 0
    size = length if text.isascii() else len(text.encode())
    free = size * (length - linked) // length
    if free < PARAGRAPH or tag in HEADINGS:
        return 0
    if size < HEADLINES and text[-1] not in ENDS and tag not in ITEMS:
        return 0
    return min(free, CODE) if tag == "pre" else free
