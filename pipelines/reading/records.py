"""What inputs give: pages to be parsed, prose that is there already, and what is neither."""

from dataclasses import dataclass
from typing import Any

from shards import schema

MAX_BYTES = 10_000_000
HTML_TYPES = frozenset(("text/html", "application/xhtml+xml"))


@dataclass(frozen=True)
class Page:
    """An HTML page, as an HTTP response in a WARC or from elsewhere.

    `offset` is where it stands: the byte at which its record starts, or its row. `body` is empty
    where `too_large` says that it was not read. `charset` is what the response's header says.
    """

    url: str | None
    offset: int
    status: int | None = None
    content_type: str | None = None
    charset: str | None = None
    body: bytes | str = b""
    too_large: bool = False
    snapshot: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Prose:
    """A text that somebody has extracted before."""

    url: str | None
    offset: int
    text: str
    snapshot: str | None = None
    licence: str | None = None


@dataclass(frozen=True)
class Lost:
    """A record that cannot be read, or is not worth it; `kind` is "error" or "dropped"."""

    url: str | None
    offset: int
    reason: str
    detail: str | None = None
    kind: str = "error"


Record = Page | Prose | Lost


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


def page_detail(page: Page, reason: str) -> str | None:
    """What the ledger says beside a reason of `page_reason`."""
    known = {"http_status": page.status, "not_html": page.content_type}.get(reason)
    return None if known is None else str(known)


def lost_row(lost: Lost, source: str, file: str) -> dict[str, Any]:
    """A row of `schema.DROP`, whose id is that of the URL, or of the place where there is none."""
    identity = (lost.url,) if lost.url else (file, str(lost.offset))
    where = f"{lost.detail} ({file} at {lost.offset})"
    return {
        "id": schema.digest(source, *identity),
        "unit": "document",
        "reason": lost.reason,
        "kind": lost.kind,
        "url": lost.url,
        "detail": where if lost.kind == "error" else lost.detail,
    }
