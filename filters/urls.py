"""Block-lists of URLs: pages that are not worth parsing, told by their addresses alone.

The rules are those of RefinedWeb (Penedo et al. 2023, section 3.1 and appendix G.1) in the form
that FineWeb gave them (datatrove's URLFilter): blocked domains and URLs, words that ban a URL at
once, words that do so together, and substrings that ban wherever they stand. The lists are the
caller's. Decisions are datatrove's but for these, where its own would let listed pages through:

- letter case never matters (datatrove lowers its words but not the URL that it looks for them in);
- a listed domain blocks all of its subdomains, not only itself and the registered domain, and may
  be an IP address;
- a listed URL is compared without scheme, "www." and last slash, since the public lists (UT1) are
  written so; datatrove asks for the whole string;
- an entry without an ASCII letter or digit is refused; it would be the empty word, which every
  URL has that ends in a slash.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pyarrow as pa

from filters.rules import Mask, Rule, above, flag, measured

NOT_WORD = re.compile(r"[^a-z0-9]+")
BEFORE_HOST = re.compile(r"^(?:[a-z][a-z0-9+.-]*:)?//(?:[^/?#]*@)?|^www\.")
HOST_END = re.compile(r"[/?#:]")
T = TypeVar("T")

KEY = 3  # characters of a substring that it is looked up by


@dataclass(frozen=True)
class BlockLists:
    """Normalised lists; made by `block_lists`."""

    domains: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    soft_words: frozenset[str] = frozenset()
    substrings: frozenset[str] = frozenset()
    min_soft_words: int = 2

    def __bool__(self) -> bool:
        """Whether anything is on the lists."""
        hard = self.domains or self.urls or self.words
        return bool(hard or self.soft_words or self.substrings)

    @cached_property
    def starts(self) -> dict[int, frozenset[str]]:
        """The first `KEY` characters of the substrings, or fewer if they are shorter, by length."""
        keys = {entry[:KEY] for entry in self.substrings}
        return {size: frozenset(k for k in keys if len(k) == size) for size in map(len, keys)}


def block_lists(
    *,
    domains: Iterable[str] = (),
    urls: Iterable[str] = (),
    words: Iterable[str] = (),
    soft_words: Iterable[str] = (),
    substrings: Iterable[str] = (),
    min_soft_words: int = 2,
) -> BlockLists:
    """Lists from the lines of files: one entry a line; empty lines and # comments are skipped.

    Raises ValueError for a word or substring without an ASCII letter or digit.
    """
    return BlockLists(
        frozenset(_host(_bare(domain)) for domain in _entries(domains)) - {""},
        frozenset(_bare(url) for url in _entries(urls)) - {""},
        frozenset(map(_letters, _entries(words))),
        frozenset(map(_letters, _entries(soft_words))),
        frozenset(map(_letters, _entries(substrings))),
        min_soft_words,
    )


def _entries(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        entry = line.strip()
        if entry and not entry.startswith("#"):
            yield entry


def _letters(text: str) -> str:
    """The letters and digits of an entry, as datatrove normalises words: "x-Rated" is "xrated"."""
    letters = NOT_WORD.sub("", text.lower())
    if not letters:
        raise ValueError(f"{text!r} has no ASCII letter or digit")
    return letters


def _bare(url: str) -> str:
    """A URL without scheme, user, "www.", fragment and last slash, in lower case."""
    address = BEFORE_HOST.sub("", url.strip().lower().partition("#")[0], count=1)
    return address.removeprefix("www.").rstrip("/")


def _host(address: str) -> str:
    """The host of an address that `_bare` has made."""
    return HOST_END.split(address, maxsplit=1)[0].strip(".")


def url_blocks(urls: pa.Array, lists: BlockLists) -> list[Rule]:
    """Rules over URLs, of shape [urls]; a null URL is never blocked.

    Reasons: "url_blocked_domain", "url_blocked", "url_banned_word" (a whole word between
    characters that are no ASCII letters or digits), "url_soft_banned_words" (at least
    `min_soft_words` different ones; the rule's bound is one less), "url_banned_substring" (in the
    URL's letters and digits run together).
    """
    texts = [(url or "").lower() for url in urls.to_pylist()]
    addresses = [_bare(text) for text in texts]
    words = [set(NOT_WORD.split(text)) for text in texts]
    soft = measured(lambda found: len(found & lists.soft_words), words)
    return [
        flag("url_blocked_domain", _mask(addresses, lambda a: _in_domains(a, lists.domains))),
        flag("url_blocked", _mask(addresses, lists.urls.__contains__)),
        flag("url_banned_word", _mask(words, lambda found: not lists.words.isdisjoint(found))),
        above("url_soft_banned_words", soft, lists.min_soft_words - 1),
        flag("url_banned_substring", _mask(texts, lambda text: _has_substring(text, lists))),
    ]


def _mask(items: Sequence[T], holds: Callable[[T], bool]) -> Mask:
    return np.fromiter(map(holds, items), bool, len(items))


def _in_domains(address: str, domains: frozenset[str]) -> bool:
    """Whether the host of an address or a domain above it is listed."""
    host = _host(address) if domains else ""
    while host:
        if host in domains:
            return True
        host = host.partition(".")[2]
    return False


def _has_substring(url: str, lists: BlockLists) -> bool:
    text = NOT_WORD.sub("", url) if lists.substrings else ""
    for size, starts in lists.starts.items():
        # Few texts have so much as the start of an entry.
        if not starts.isdisjoint([text[i : i + size] for i in range(len(text) - size + 1)]):
            return any(entry in text for entry in lists.substrings)
    return False
