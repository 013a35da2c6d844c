"""Bytes of a page to a tree that is small and shallow enough to read."""

from collections.abc import Sequence

from resiliparse.parse.html import ElementNode, HTMLTree

from pipelines.reading.encoding import decode

# The parser copies open formatting elements into every paragraph, so a small file can become
# millions of elements; and the prose reader's time grows with the square of the depth. Browsers
# cut nesting at 512 levels too (Chromium's HTML parser).
MAX_ELEMENTS = 100_000
MAX_DEPTH = 512
# Elements whose text is no prose, and is not escaped when the tree is written out.
RAW = "script, style, iframe, noembed, noframes, xmp, plaintext"
TOO_DEEP = ">".join(["*"] * MAX_DEPTH)


class PageTooComplexError(ValueError):
    """The tree of a page has more elements or levels than this module takes on."""


def parse_html(html: bytes | str | HTMLTree, charset: str | None = None) -> HTMLTree:
    """The DOM of a page without its raw text (`RAW`); a tree is returned as it is.

    `charset` is that of the HTTP header; `encoding.decode` says how bytes are decoded.

    Raises PageTooComplexError above `MAX_ELEMENTS` elements or `MAX_DEPTH` levels.
    """
    if isinstance(html, HTMLTree):
        return html
    tree = HTMLTree.parse(html if isinstance(html, str) else decode(html, charset))
    document = tree.document
    # Not by a selector, of which the first is slow.
    elements = 0 if document is None else len(document.get_elements_by_tag_name("*"))
    if elements > MAX_ELEMENTS:
        raise PageTooComplexError(f"{elements} elements")
    # One native selector: a walk in Python to find the depth costs more than the parse.
    if elements >= MAX_DEPTH and select(tree, TOO_DEEP):
        raise PageTooComplexError(f"{MAX_DEPTH} levels")
    for element in select(tree, RAW):
        element.decompose()
    return tree


def select(tree: HTMLTree, selector: str) -> Sequence[ElementNode]:
    """The elements of `tree` that a CSS selector matches, in document order."""
    document = tree.document
    # The slice: iterating over the binding's own list makes the whole list anew for every item.
    return () if document is None else document.query_selector_all(selector)[:]


def attribute(element: ElementNode, name: str) -> str:
    """The value of an attribute, empty where `element` has none."""
    return element.getattr(name) or ""
