"""From HTML to the parts of a document: a page in DOM order, or its prose.

Plain functions over bytes and HTML trees. The interleaved reading follows the DOM
simplification of OBELICS (Laurençon et al. 2023, appendix A.1): boilerplate subtrees go, inline
tags dissolve into their text, blocks separate texts, images stand where the page shows them. It
differs in keeping lists and tables, which OBELICS removes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urldefrag, urljoin, urlsplit

from resiliparse.parse.html import ElementNode, HTMLTree, Node, TextNode

from pipelines.reading.html import attribute, parse_html, select
from pipelines.reading.prose import prose_parts
from shards import schema

# Attributes that hold the address of an image, in the order in which OBELICS asks them
# (obelics/utils/tags_attributes.py), with `data-srcset` of the lazy-loading scripts added.
IMAGE_ATTRIBUTES = (
    "src",
    "data-src",
    "data-src-fg",
    "data-scroll-image",
    "srcset",
    "data-srcset",
    "data-lateloadsrc",
    "data-img-src",
    "data-original",
    "data-gt-lazy-src",
    "data-lazy",
    "data-lazy-src",
    "src2",
)
SRCSET_SKIPPED = re.compile(r"[\s,]*")
SRCSET_URL = re.compile(r"\S+")
SRCSET_DESCRIPTORS = re.compile(r"[^,]*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DROPPED_TAGS = _words(
    "nav footer aside noscript template iframe audio video canvas svg button select textarea "
    "datalist dialog annotation annotation-xml frameset head"
)
DROPPED_ROLES = _words(
    "navigation banner contentinfo search menu menubar complementary dialog alertdialog"
)
# Words of an id or a class (split at spaces, hyphens, underscores and camel case) ...
DROPPED_WORDS = _words(
    "nav navbar navigation navigationbar navheader navfooter navpath navrow docnav topbar menu "
    "menubar footer sidebar sphinxsidebar breadcrumb breadcrumbs cookie cookies consent gdpr toc "
    "pager pagination headerlink"
)
# ... and whole ids or classes whose words are too common to judge alone: an "entry-header" is
# the title of an article, a "site-header" is not.
DROPPED_NAMES = _words(
    "header site-header masthead skip-link related titlearea projectlogo msearchbox"
)
# A block of at least MIN_LINKS links that hold LINK_DENSITY of its text is a list of links: the
# measure is link density of Kohlschütter et al. 2010 (WSDM), the cut much higher than theirs
# (0.33), which would take prose with many links.
LINK_BLOCKS = frozenset(("div", "ul", "ol", "table"))
LINK_DENSITY = 0.8
MIN_LINKS = 3

PARAGRAPHS = _words(
    "address article blockquote body center details div dl fieldset figure figcaption form h1 h2 "
    "h3 h4 h5 h6 header hgroup hr main ol p pre section summary table ul"
)
LINES = _words("li dt dd tr caption legend optgroup option")
CELLS = frozenset(("td", "th"))
WORD_BREAK = re.compile(r"[\s_-]+|(?<=[a-z])(?=[A-Z])")
SPACE = re.compile(r"\s+")
DECLARED = "link[rel~=license][href], a[rel~=license][href], meta[name][content]"
LICENCE_META = re.compile(r"dc(terms)?\.(rights|license)", re.IGNORECASE)
NAMES = 1 << 16  # of elements, of which some come again and again

Part = dict[str, Any]
# How a page is read: with its images in place, or for its prose by one of the extractors.
Reader = Literal["interleaved", "mixwright", "resiliparse", "trafilatura"]


def _text(node: Node) -> str:
    return node.text or ""


def interleaved_parts(
    html: bytes | str | HTMLTree, url: str | None = None, charset: str | None = None
) -> list[Part]:
    """The texts and images of a page in DOM order.

    All text between two images is one part, its paragraphs separated by a blank line and its
    list items, table rows and <br> by a line end. An image has an absolute http(s) URL without
    fragment; one that the page shows again is kept where it stands first.

    Raises PageTooComplexError as `parse_html` does.
    """
    tree = parse_html(html, charset)
    if tree.body is None:
        return []
    reader = _Reader(_base(tree, url or ""))
    for node, entering in _walk(tree.body):
        reader.visit(node, entering)
    return reader.finish()


def _base(tree: HTMLTree, url: str) -> str:
    bases = select(tree, "base[href]")
    return (bases and _join(url, attribute(bases[0], "href"))) or url


def _join(base: str, reference: str) -> str | None:
    """`reference` as an absolute http(s) URL without fragment, None if it is none."""
    try:
        url = urldefrag(urljoin(base, reference.strip().replace(" ", "%20"))).url
        parsed = urlsplit(url)
        return url if parsed.scheme in ("http", "https") and parsed.hostname else None
    except ValueError:  # no URL at all, such as "http://[x"
        return None


def _walk(root: Node) -> Iterator[tuple[Node, bool]]:
    """(node, True) on entering and (node, False) on leaving each node, boilerplate left out.

    No recursion, for deep pages, and no list of children, which the binding makes anew for every
    item.
    """
    limit = len(_text(root)) // 2
    node: Node | None = root
    ancestors: list[Node] = []
    while node is not None or ancestors:
        if node is None:
            left = ancestors.pop()
            yield left, False
            node = left.next_sibling if ancestors else None
        elif ancestors and _is_boilerplate(node, limit):
            node = node.next_sibling
        else:
            yield node, True
            ancestors.append(node)
            node = node.first_child


def _is_boilerplate(node: Node, limit: int) -> bool:
    """Whether `node` is an element that readers skip.

    Neither names, roles nor links drop an element with more than `limit` characters of text: a
    wrapper such as <div class="with-sidebar"> holds the page.
    """
    if not isinstance(node, ElementNode):
        return False
    if node.tag in DROPPED_TAGS or (node.tag == "header" and not _heads_article(node)):
        return True
    if node.attrs and (node.hasattr("hidden") or _hides(attribute(node, "style"))):
        return True
    named = bool(node.attrs) and _is_named_boilerplate(node)
    if not named and node.tag not in LINK_BLOCKS:
        return False
    return len(_text(node)) <= limit and (named or _is_list_of_links(node))


def _heads_article(header: ElementNode) -> bool:
    """A <header> inside an article is its title; outside it is the site's banner."""
    return header.closest("article, main") is not None


def _is_named_boilerplate(element: ElementNode) -> bool:
    names = f"{element.class_name} {element.id}"
    return _names_boilerplate(names, attribute(element, "role"))


def _is_list_of_links(element: ElementNode) -> bool:
    """Whether `element` is a block of links; with a picture in it, it may be a gallery."""
    links = element.query_selector_all("a")[:]
    if len(links) < MIN_LINKS or element.query_selector("img") is not None:
        return False
    return sum(map(_ink, links)) >= LINK_DENSITY * _ink(element)


def _ink(node: Node) -> int:
    return len(SPACE.sub("", _text(node)))


@lru_cache(NAMES)
def _hides(style: str) -> bool:
    return "display:none" in style.replace(" ", "").lower()


@lru_cache(NAMES)
def _names_boilerplate(names: str, role: str) -> bool:
    words = {word.lower() for word in WORD_BREAK.split(names)}
    whole = set(names.lower().split())
    return bool(words & DROPPED_WORDS or whole & DROPPED_NAMES or role.lower() in DROPPED_ROLES)


@dataclass
class _Reader:
    """Builds the parts of a page from a walk over its nodes.

    `gap` is the number of line ends owed before the next text, as in the innerText algorithm of
    the HTML standard: the largest that any boundary in between asked for.
    """

    base: str
    parts: list[Part] = field(default_factory=list)
    run: list[str] = field(default_factory=list)
    gap: int = 0
    preformatted: int = 0
    seen: set[str] = field(default_factory=set)

    def visit(self, node: Node, entering: bool) -> None:
        if isinstance(node, ElementNode):
            self._element(node, node.tag or "", entering)
        elif isinstance(node, TextNode) and entering:
            self._text(node.value or "")

    def finish(self) -> list[Part]:
        self._flush()
        return self.parts

    def _element(self, node: ElementNode, tag: str, entering: bool) -> None:
        if tag == "img" and entering:
            self._image(node)
        elif tag == "br" and entering:
            self.gap = min(self.gap + 1, 2)
        elif tag in CELLS and entering:
            self._text(" ")
        elif tag in PARAGRAPHS or tag in LINES:
            self.gap = max(self.gap, 2 if tag in PARAGRAPHS else 1)
        if tag == "pre":
            self.preformatted += 1 if entering else -1

    def _text(self, text: str) -> None:
        if not self.preformatted:
            text = SPACE.sub(" ", text)
            if self.gap or not self.run or self.run[-1].endswith(" "):
                text = text.lstrip(" ")
        if not text:
            return
        if self.gap and self.run:
            self.run[-1] = self.run[-1].rstrip()
            self.run.append("\n" * self.gap)
        self.gap = 0
        self.run.append(text)

    def _image(self, node: ElementNode) -> None:
        url = _image_url(node, self.base)
        if url is None or url in self.seen:
            return
        self.seen.add(url)
        self._flush()
        alt = SPACE.sub(" ", attribute(node, "alt")).strip()
        self.parts.append(schema.image_part(url, alt or None))

    def _flush(self) -> None:
        text = "".join(self.run).strip()
        if text:
            self.parts.append(schema.text_part(text))
        self.run, self.gap = [], 0


def _image_url(image: ElementNode, base: str) -> str | None:
    """The first usable address that the element or its <picture> names."""
    named = [(name, attribute(image, name)) for name in IMAGE_ATTRIBUTES]
    picture = image.closest("picture")
    source = picture.query_selector("source[srcset]") if picture is not None else None
    if source is not None:
        named.append(("srcset", attribute(source, "srcset")))
    urls = (_attribute_url(name, value, base) for name, value in named if value)
    return next((url for url in urls if url is not None), None)


def _attribute_url(name: str, value: str, base: str) -> str | None:
    reference = largest_candidate(value) if name.endswith("srcset") else value.strip()
    return _join(base, reference) if reference else None


def largest_candidate(srcset: str) -> str | None:
    """The URL of a srcset with the largest width or pixel density; the first among equals.

    Split as the HTML standard says (4.8.4.3.10): a URL ends at white space, so that it may hold
    commas; a candidate ends at a comma. Data URIs do not count.
    """
    best: tuple[float, str | None] = (-1.0, None)
    for url, descriptors in _candidates(srcset):
        size = _descriptor(descriptors)
        if size > best[0] and not url.startswith("data:"):
            best = size, url
    return best[1]


def _candidates(srcset: str) -> Iterator[tuple[str, str]]:
    """Each URL of a srcset and the text of its descriptors."""
    position = 0
    while url := SRCSET_URL.match(srcset, _end(SRCSET_SKIPPED, srcset, position)):
        position = url.end()
        if not url[0].endswith(","):
            position = _end(SRCSET_DESCRIPTORS, srcset, position)
        yield url[0].rstrip(","), srcset[url.end() : position]


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _descriptor(text: str) -> float:
    """The number in "640w" or "2x"; 1 (density) where there is none."""
    match = re.search(r"(?<!\S)(\d+(?:\.\d+)?)[wx](?!\S)", text)
    return float(match[1]) if match else 1.0


def page_licence(html: bytes | str | HTMLTree, url: str | None = None) -> str | None:
    """The licence that a page declares for itself, as an absolute URL or as the page's words.

    Asked in order: <link rel=license>, <a rel=license> outside figures (there it speaks of the
    picture), and the Dublin Core metas for rights and licence.
    """
    tree = parse_html(html)
    # One selector for all, since each walks over the whole tree.
    declared = select(tree, DECLARED)
    if links := [e for e in declared if e.tag != "meta" and e.closest("figure") is None]:
        base = _base(tree, url or "")
        targets = (_join(base, attribute(link, "href")) for link in links)
        if target := next(filter(None, targets), None):
            return target
    metas = (e for e in declared if e.tag == "meta")
    named = (e for e in metas if LICENCE_META.fullmatch(attribute(e, "name")))
    return next((attribute(e, "content").strip() or None for e in named), None)


def read_page(
    html: bytes | str, url: str | None, charset: str | None, reader: Reader
) -> tuple[list[Part], str | None]:
    """The parts of a page, read as `reader` does, and the licence that it declares.

    Raises PageTooComplexError as `parse_html` does.
    """
    tree = parse_html(html, charset)
    licence = page_licence(tree, url)
    if reader == "interleaved":
        return interleaved_parts(tree, url), licence
    return prose_parts(tree, url, extractor=reader), licence
