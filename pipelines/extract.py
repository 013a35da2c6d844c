"""From a WARC to documents: records, then the parts of a page in DOM order, or its prose.

Plain functions over bytes and HTML trees. The interleaved reading follows the DOM
simplification of OBELICS (Laurençon et al. 2023, appendix A.1): boilerplate subtrees go, inline
tags dissolve into their text, blocks separate texts, images stand where the page shows them. It
differs in keeping lists and tables, which OBELICS removes.
"""

import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, BinaryIO, Literal
from urllib.parse import urldefrag, urljoin, urlsplit

import pyarrow as pa
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import ElementNode, HTMLTree, Node, TextNode

from shards import schema

MAX_BYTES = 10_000_000
# The parser copies open formatting elements into every paragraph, so a small file can become
# millions of elements; and the prose reader's time grows with the square of the depth. Browsers
# cut nesting at 512 levels too (Chromium's HTML parser).
MAX_ELEMENTS = 100_000
MAX_DEPTH = 512
TOO_DEEP = ">".join(["*"] * MAX_DEPTH)

HTML_TYPES = {"text/html", "application/xhtml+xml"}
RECORD_START = re.compile(rb"WARC/1\.|\x1f\x8b\x08|\x28\xb5\x2f\xfd")  # plain, gzip, zstd
SCAN = 1 << 20

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

# Generators' navigation that the prose reader's own heuristics let through.
PROSE_DROPPED = (".navheader", ".navfooter", ".docnav", ".toc", ".related", ".headerlink")
# Resiliparse 2.0 takes a lone character of three UTF-8 bytes between two elements (an arrow, a
# dash, an ideograph) for decoration and drops it; followed by a word joiner it survives.
JOINER = "\u2060"

PARAGRAPHS = _words(
    "address article blockquote body center details div dl fieldset figure figcaption form h1 h2 "
    "h3 h4 h5 h6 header hgroup hr main ol p pre section summary table ul"
)
LINES = _words("li dt dd tr caption legend optgroup option")
CELLS = frozenset(("td", "th"))
WORD_BREAK = re.compile(r"[\s_-]+|(?<=[a-z])(?=[A-Z])")
SPACE = re.compile(r"\s+")
LICENCE_META = re.compile(r"dc(terms)?\.(rights|license)", re.IGNORECASE)
TRAILING_SPACE = re.compile(r"[^\S\n]+(?=\n)")
BLANK_LINES = re.compile(r"\n{3,}")

Part = dict[str, Any]
Mode = Literal["interleaved", "prose"]


@dataclass(frozen=True)
class Page:
    """One HTTP response of a WARC.

    `offset` is the byte at which its record starts. `body` is empty where `too_large` says that
    it was not read. `error` says why the record could not be read; the other fields then hold
    what was known before.
    """

    url: str
    offset: int
    status: int | None = None
    content_type: str | None = None
    charset: str | None = None
    body: bytes = b""
    too_large: bool = False
    error: str | None = None


class PageTooComplexError(ValueError):
    """The tree of a page has more elements or levels than this module takes on."""


def read_warc(source: BinaryIO, max_bytes: int = MAX_BYTES) -> Iterator[Page]:
    """The HTTP responses of a WARC (plain, gzip or zstd) in file order.

    `source` is a seekable stream. A record that cannot be read becomes a page with
    `error`, and reading goes on at the next readable record; where the archive is damaged
    between two records, the error stands at the offset of the first of them. A body is at most
    `max_bytes` long, before and after its content encoding is undone.

    Raises OSError if the storage fails.
    """
    start: int | None = 0
    while start is not None:
        start = yield from _read_from(source, start, max_bytes)


def _read_from(stream: BinaryIO, start: int, max_bytes: int) -> Generator[Page, None, int | None]:
    """Pages from byte `start` to the end or the first broken record; returns where to resume."""
    offset, url = start, ""
    stream.seek(start)
    try:
        for record in _responses(stream):
            offset, url = record.stream_pos, _target(record)
            page = _page(record, url, max_bytes)
            if page is not None:
                yield page
            url = ""
    except OSError as error:
        if error.errno is not None:  # the storage's own failure, not the archive's
            raise
        yield Page(url, offset, error=str(error))
        return _next_record(stream, offset + 1)
    return None


def _responses(stream: BinaryIO) -> Iterator[WarcRecord]:
    yield from ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=False)


def _target(record: WarcRecord) -> str:
    return (record.headers.get("WARC-Target-URI") or "").strip("<>")


def _page(record: WarcRecord, url: str, max_bytes: int) -> Page | None:
    """The page in `record`, None if it is no HTTP response; OSError if it is damaged."""
    if not record.is_http:
        return None
    if record.content_length > max_bytes:
        record.parse_http()
        return Page(url, record.stream_pos, *_response_head(record), too_large=True)
    declared = record.content_length
    record.freeze()
    if record.content_length < declared:
        raise OSError(f"record ends after {record.content_length} of {declared} bytes")
    record.parse_http(auto_decode="all")
    body = record.reader.read(max_bytes + 1)
    too_large = len(body) > max_bytes
    head = _response_head(record)
    return Page(url, record.stream_pos, *head, b"" if too_large else body, too_large)


def _response_head(record: WarcRecord) -> tuple[int | None, str | None, str | None]:
    """Status, content type and charset of a response."""
    headers = record.http_headers
    kind = record.http_content_type or record.headers.get("WARC-Identified-Payload-Type")
    charset = (record.http_charset or "").strip("\"' ")
    return headers.status_code if headers else None, kind and kind.lower(), charset or None


def _next_record(stream: BinaryIO, start: int) -> int | None:
    """The offset of the first record at or after `start` that can be read to its end."""
    for offset in _record_starts(stream, start):
        stream.seek(offset)
        if _readable(stream):
            return offset
    return None


def _record_starts(stream: BinaryIO, start: int) -> Iterator[int]:
    """Offsets at or after `start` where the bytes look like the start of a record."""
    overlap = 8
    while True:
        stream.seek(start)
        chunk = stream.read(SCAN)
        for match in RECORD_START.finditer(chunk):
            if match.start() < SCAN - overlap:
                yield start + match.start()
        if len(chunk) < SCAN:
            return
        start += SCAN - overlap


def _readable(stream: BinaryIO) -> bool:
    try:
        record = next(iter(ArchiveIterator(stream, parse_http=False)), None)
        if record is not None:
            record.consume()
    except OSError as error:
        if error.errno is not None:
            raise
        return False
    return record is not None


def page_reason(page: Page) -> str | None:
    """Why `page` is not worth parsing, or None if it is.

    The first that holds of "http_status" (not 200), "not_html", "page_too_large", "empty_body".
    """
    if page.status != 200:
        return "http_status"
    if page.content_type not in HTML_TYPES:
        return "not_html"
    if page.too_large:
        return "page_too_large"
    return None if page.body.strip() else "empty_body"


def parse_html(html: bytes | str | HTMLTree, charset: str | None = None) -> HTMLTree:
    """The DOM of a page without its scripts and styles; a tree is returned as it is.

    Bytes are decoded by `charset` (of the HTTP header), else by the page's own meta tag, else as
    UTF-8 if they are that, else by what they look like; undecodable bytes never raise.

    Raises PageTooComplexError above `MAX_ELEMENTS` elements or `MAX_DEPTH` levels.
    """
    if isinstance(html, HTMLTree):
        return html
    tree = HTMLTree.parse(html if isinstance(html, str) else _decode(html, charset))
    document = tree.document
    elements = 0 if document is None else len(document.query_selector_all("*"))
    if elements > MAX_ELEMENTS:
        raise PageTooComplexError(f"{elements} elements")
    # One native selector: a walk in Python to find the depth costs more than the parse.
    if _select(tree, TOO_DEEP):
        raise PageTooComplexError(f"{MAX_DEPTH} levels")
    for element in _select(tree, "script, style"):
        element.decompose()
    return tree


def _select(tree: HTMLTree, selector: str) -> Sequence[ElementNode]:
    document = tree.document
    # The slice: iterating over the binding's own list makes the whole list anew for every item.
    return () if document is None else document.query_selector_all(selector)[:]


def _attribute(element: ElementNode, name: str) -> str:
    return element.getattr(name) or ""


def _text(node: Node) -> str:
    return node.text or ""


def _decode(html: bytes, charset: str | None) -> str:
    named = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    return bytes_to_str(html, named or _guess(html) or "utf-8")


def _guess(html: bytes) -> str | None:
    # The detector is unsure of short texts; bytes that happen to be UTF-8 are UTF-8.
    if b"charset" not in html[:1024].lower() and _is_utf8(html):
        return "utf-8"
    return detect_encoding(html, from_html_meta=True)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def prose_parts(
    html: bytes | str | HTMLTree, url: str | None = None, charset: str | None = None
) -> list[Part]:
    """The main content of a page as one text part, or no part; blocks are separate lines.

    Main content is what Resiliparse's heuristics (Bevendorff et al. 2018) call so. `url` is not
    needed here; it keeps both readings callable alike. A tree that is passed in is marked (see
    `JOINER`), so that `interleaved_parts` has to come first.

    Raises PageTooComplexError as `parse_html` does.
    """
    tree = parse_html(html, charset)
    _protect_lone_characters(tree)
    text = extract_plain_text(
        tree,
        preserve_formatting=True,
        main_content=True,
        alt_texts=False,
        comments=False,
        skip_elements=PROSE_DROPPED,
    )
    text = BLANK_LINES.sub("\n\n", TRAILING_SPACE.sub("", text.replace(JOINER, ""))).strip()
    return [schema.text_part(text)] if text else []


def _protect_lone_characters(tree: HTMLTree) -> None:
    texts = [node for node in tree.document or () if isinstance(node, TextNode)]
    for node in texts:
        value = node.value or ""
        if len(value.strip()) == 1 and not value.isascii():
            node.value = value + JOINER


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
    bases = _select(tree, "base[href]")
    return (bases and _join(url, _attribute(bases[0], "href"))) or url


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
    if node.attrs and (node.hasattr("hidden") or _hides(_attribute(node, "style"))):
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
    return _names_boilerplate(names, _attribute(element, "role"))


def _is_list_of_links(element: ElementNode) -> bool:
    """Whether `element` is a block of links; with a picture in it, it may be a gallery."""
    links = element.query_selector_all("a")[:]
    if len(links) < MIN_LINKS or element.query_selector("img") is not None:
        return False
    return sum(map(_ink, links)) >= LINK_DENSITY * _ink(element)


def _ink(node: Node) -> int:
    return len(SPACE.sub("", _text(node)))


@cache
def _hides(style: str) -> bool:
    return "display:none" in style.replace(" ", "").lower()


@cache
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
        alt = SPACE.sub(" ", _attribute(node, "alt")).strip()
        self.parts.append(schema.image_part(url, alt or None))

    def _flush(self) -> None:
        text = "".join(self.run).strip()
        if text:
            self.parts.append(schema.text_part(text))
        self.run, self.gap = [], 0


def _image_url(image: ElementNode, base: str) -> str | None:
    """The first usable address that the element or its <picture> names."""
    named = [(name, _attribute(image, name)) for name in IMAGE_ATTRIBUTES]
    picture = image.closest("picture")
    source = picture.query_selector("source[srcset]") if picture is not None else None
    if source is not None:
        named.append(("srcset", _attribute(source, "srcset")))
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
    base = _base(tree, url or "")
    for link in _select(tree, "link[rel~=license][href], a[rel~=license][href]"):
        if link.closest("figure") is None and (target := _join(base, _attribute(link, "href"))):
            return target
    for meta in _select(tree, "meta[name][content]"):
        if LICENCE_META.fullmatch(_attribute(meta, "name")):
            return _attribute(meta, "content").strip() or None
    return None


def extract_pages(
    pages: Iterable[Page], mode: Mode, source: str, file: str
) -> tuple[pa.Table, pa.Table]:
    """Documents (`schema.DOCUMENT`) and drops (`schema.DROP`); each page is a row of one of them.

    Reasons: those of `page_reason`; "no_text" and, for "interleaved", "no_images";
    "page_too_complex"; and, of kind "error", "bad_record" for what the archive could not give
    and "extract_failed" for what the parser could not. `detail` holds the message.

    The id of a drop is the digest of source and URL, of a record without URL the digest of
    source, file and offset. A page that the archive holds twice gives two rows with one id;
    deduplication is a later stage.
    """
    rows = [_extract(page, mode, source, file) for page in pages]
    documents = [row for row in rows if "parts" in row]
    drops = [row for row in rows if "reason" in row]
    return schema.documents(documents), pa.Table.from_pylist(drops, schema=schema.DROP)


def _extract(page: Page, mode: Mode, source: str, file: str) -> Mapping[str, Any]:
    """A row of `schema.DOCUMENT` or of `schema.DROP`."""
    identity = (page.url,) if page.url else (file, str(page.offset))
    drop = {"id": schema.digest(source, *identity), "unit": "document", "url": page.url or None}
    if page.error is not None:
        return drop | {"reason": "bad_record", "kind": "error", "detail": page.error}
    if reason := page_reason(page):
        return drop | {"reason": reason, "kind": "dropped", "detail": _detail(page, reason)}
    try:
        return _document(page, mode, source, file, drop)
    except PageTooComplexError as error:
        return drop | {"reason": "page_too_complex", "kind": "dropped", "detail": str(error)}
    except Exception as error:  # one page must not cost the others; it is counted as an error
        detail = f"{type(error).__name__}: {error}"
        return drop | {"reason": "extract_failed", "kind": "error", "detail": detail}


def _detail(page: Page, reason: str) -> str | None:
    known = {"http_status": page.status, "not_html": page.content_type}.get(reason)
    return None if known is None else str(known)


def _document(
    page: Page, mode: Mode, source: str, file: str, drop: Mapping[str, Any]
) -> Mapping[str, Any]:
    tree = parse_html(page.body, page.charset)
    read = interleaved_parts if mode == "interleaved" else prose_parts
    parts = read(tree, page.url)
    if reason := _parts_reason(parts, mode):
        return {**drop, "reason": reason, "kind": "dropped"}
    licence = page_licence(tree, page.url)
    return schema.document(
        source, page.url, parts, licence=licence, file=file, position=page.offset
    )


def _parts_reason(parts: list[Part], mode: Mode) -> str | None:
    if not any(part["text"] for part in parts):
        return "no_text"
    if mode == "interleaved" and not any(part["url"] for part in parts):
        return "no_images"
    return None
