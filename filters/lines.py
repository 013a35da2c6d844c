"""Edits of a document's lines: RefinedWeb's line-wise corrections and the line rules of C4.

An edit is a function of lines and keyword thresholds that answers for each line what is left of
it, and why something went. A line is what stands between newlines; its words are what white space
separates. What a document may lose is for a filter to say: `filters.scored.lines`.
"""

import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Left = tuple[str | None, str | None]  # the line, None if nothing stays; the reason, if it changed
Edit = Callable[..., list[Left]]

REASONS = {
    "refinedweb": (
        "refinedweb_uppercase",
        "refinedweb_number",
        "refinedweb_counter",
        "refinedweb_too_few_words",
        "refinedweb_navigation",
    ),
    "c4": (
        "c4_word_too_long",
        "c4_citation",
        "c4_not_terminated",
        "c4_line_too_short",
        "c4_javascript",
        "c4_policy",
    ),
}

COUNTER = re.compile(
    r"\W*\d[\d.,]*\s?[kmb]?\s+(?:bookmarks?|comments?|dislikes?|downloads?|downvotes?|favou?rites?"
    r"|followers?|hits?|likes?|members?|photos?|pins?|posts?|quotes?|reactions?|replies|reply"
    r"|reposts?|retweets?|reviews?|shares?|subscribers?|tweets?|upvotes?|views?|votes?)\W*",
    re.IGNORECASE,
)
STARTS = ["sign in", "sign-in", "sign up", "log in or register", "log in or sign up",
          "log in to comment", "log in to reply", "skip to content", "skip to main content",
          "skip to navigation", "share this", "follow us on", "posted in", "filed under",
          "tagged with"]  # fmt: skip
ENDS = ["read more", "read more...", "read more…", "learn more", "continue reading", "see more",
        "show more", "view all", "leave a comment", "leave a reply", "no comments"]  # fmt: skip
ANYWHERE = ["items in cart", "item in cart", "add to cart", "your cart is empty", "view cart",
            "all rights reserved", "forgot your password", "click here to"]  # fmt: skip

TERMINAL = (".", "?", "!", '"', "'", "”", "’")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
POLICY = re.compile(
    "terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
)
ASCII_UPPERCASE = string.ascii_uppercase.encode()
BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n){2,}")


@dataclass(frozen=True)
class Edited:
    """Texts after an edit, and what went.

    Attributes:
        texts: what is left of each text, without blank lines around it.
        words: how many words each text had, of shape [texts].
        removed: by reason, how many words went from each text, of shape [texts].
    """

    texts: list[str]
    words: NDArray[np.int64]
    removed: dict[str, NDArray[np.int64]]


def edit(texts: Sequence[str], apply: Edit, thresholds: dict[str, Any] | None = None) -> Edited:
    """Apply one of `EDITS` to the lines of texts; a text that it does not touch stays as it is."""
    rows = [text.split("\n") for text in texts]
    left = iter(apply([line for row in rows for line in row], **(thresholds or {})))
    removed = {reason: np.zeros(len(rows), np.int64) for reason in REASONS[apply.__name__]}
    edited = []
    for i, row in enumerate(rows):
        kept, touched = [], False
        for line, (now, reason) in zip(row, left, strict=False):
            if reason is not None:
                removed[reason][i] += _count(line) - _count(now or "")
            touched |= now != line
            if now is not None:
                kept.append(now)
        edited.append(_joined(kept) if touched else texts[i])
    return Edited(edited, np.array([_count(text) for text in texts], np.int64), removed)


def refinedweb(
    lines: Sequence[str],
    *,
    max_uppercase: float | None = 0.5,
    numbers: bool = True,
    counters: bool = True,
    min_words: int | None = 2,
    short_line: int | None = 10,
    starts: list[str] = STARTS,
    ends: list[str] = ENDS,
    anywhere: list[str] = ANYWHERE,
) -> list[Left]:
    """RefinedWeb's line-wise corrections (Penedo et al. 2023, arXiv 2306.01116, appendix G.2).

    A line goes if it is mainly uppercase, a number, a counter such as "3 likes", or a single word.
    In a line of at most `short_line` words the navigation phrases at its start, at its end or
    anywhere go, whatever their case, and the line with them if nothing else is there. "Mainly" is
    more than half of a line's characters, as in DCLM's reconstruction. The paper shows one example
    of each kind of phrase and says that its lists were made by hand; those here are this
    project's, for English. `numbers` and `counters` say whether those go; blank lines stay.
    """
    navigation = _navigation(starts, ends, anywhere)
    phrases = [phrase.lower() for phrase in (*starts, *ends, *anywhere)]

    def left(line: str) -> Left:
        words = len(line.split())
        if not words:
            return line, None
        if max_uppercase is not None and _uppercase(line) > max_uppercase * len(line):
            return None, "refinedweb_uppercase"
        if numbers and line.strip().isnumeric():
            return None, "refinedweb_number"
        if counters and COUNTER.fullmatch(line):
            return None, "refinedweb_counter"
        if min_words is not None and words < min_words:
            return None, "refinedweb_too_few_words"
        if short_line is None or words > short_line:
            return line, None
        # Almost no line holds a phrase, and this takes a fifth of the pattern's time to say so.
        if not any(map(line.lower().__contains__, phrases)) or not navigation.search(line):
            return line, None
        return navigation.sub("", line).strip() or None, "refinedweb_navigation"

    return [left(line) for line in lines]


def c4(
    lines: Sequence[str],
    *,
    terminated: bool = True,
    min_words: int | None = 3,
    max_word_length: int | None = 1000,
    citations: bool = True,
    javascript: bool = True,
    policies: bool = True,
) -> list[Left]:
    """The line rules of C4 (Raffel et al. 2020, JMLR 21(140), section 2.2).

    A line goes if it does not end in . ? ! or a quotation mark or ends in "...", if it has fewer
    than `min_words` words or one longer than `max_word_length` characters, if it names JavaScript
    or, in C4's code, a policy; marks such as "[1]", "[edit]" and "[citation needed]" go where
    `citations` says so. Blank lines go too, and no white space stays around a line. As in
    datatrove, a line has at least 3 words; C4's code asks 5. Unlike there, white space before a
    mark goes with it, so that "text. [1]" ends in a period, and typographic quotation marks end a
    line as the typewriter's do.
    """

    def left(line: str) -> Left:
        line = line.strip()
        words = line.split()
        if not words:
            return None, None
        if max_word_length is not None and max(map(len, words)) > max_word_length:
            return None, "c4_word_too_long"
        rest = CITATION.sub("", line).strip() if citations else line
        if terminated and (not rest.endswith(TERMINAL) or rest.endswith("...")):
            return None, "c4_not_terminated"
        if min_words is not None and len(words) < min_words:
            return None, "c4_line_too_short"
        lower = rest.lower()
        if javascript and "javascript" in lower:
            return None, "c4_javascript"
        if policies and POLICY.search(lower):
            return None, "c4_policy"
        return (rest, "c4_citation") if rest != line else (line, None)

    return [left(line) for line in lines]


def _count(text: str) -> int:
    return len(text.split())


def _uppercase(line: str) -> int:
    if line.isascii():  # of most lines, and a tenth of the time
        return len(line) - len(line.encode().translate(None, ASCII_UPPERCASE))
    return sum(map(str.isupper, line))


def _joined(lines: list[str]) -> str:
    # Blank lines that stood around a line which went are one separation now.
    return BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def _navigation(starts: list[str], ends: list[str], anywhere: list[str]) -> re.Pattern[str]:
    """A pattern of the phrases where they count, as whole words."""
    kinds = [rf"^\W*{_any_of(starts)}(?!\w)\W*", rf"(?<!\w){_any_of(ends)}\W*$"]
    kinds += [rf"(?<!\w){_any_of(anywhere)}(?!\w)"]
    given = [kind for kind, phrases in zip(kinds, (starts, ends, anywhere), strict=True) if phrases]
    return re.compile("|".join(given) or r"(?!)", re.IGNORECASE)


def _any_of(phrases: list[str]) -> str:
    # The longest first: "sign in" would end a match that "sign in now" goes on with.
    return f"(?:{'|'.join(map(re.escape, sorted(phrases, key=len, reverse=True)))})"


EDITS: dict[str, Edit] = {f.__name__: f for f in (refinedweb, c4)}
