"""How the page writes numbers, texts and links."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

CHARACTERS = 420  # of a text
LINK_CHARACTERS = 2000


def clip(text: str | None, limit: int = CHARACTERS) -> str | None:
    """The beginning of a text, at most `limit` characters, and a mark that it goes on."""
    return text if text is None or len(text) <= limit else text[: limit - 1].rstrip() + "…"


def safe_link(url: str | None) -> str | None:
    """`url` if a browser may be sent there: http or https, with a host, and not a book."""
    if len(url or "") > LINK_CHARACTERS:
        return None
    try:
        parts = urlsplit(url or "")
    except ValueError:  # "http://[" and its like
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


def short(number: float) -> str:
    """A number for an axis."""
    if abs(number) >= 10_000:
        return f"{number / 1000:.3g}k"
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:.3g}"


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:,.1f} TB"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _money(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.2g}"


FORMATS: dict[str, Callable[..., Any]] = {
    "number": "{:,}".format,
    "percent": _percent,
    "bytes": _bytes,
    "money": _money,
    "clip": clip,
    "link": safe_link,
}
