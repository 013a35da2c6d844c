"""The share of a text's words that are on a list of flagged words."""

import re
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

# A short list for English, so that the rule does something before a list is given: words that
# tell a page for adults or a coarse one, and rarely stand anywhere else.
ENGLISH = (
    "arsehole", "asshole", "bitch", "bitches", "bollocks", "boobs", "bullshit", "camgirl",
    "camgirls", "cam girls", "escort girls", "fuck", "fucked", "fucker", "fucking", "hardcore sex",
    "horny", "milf", "motherfucker", "naked girls", "nude pics", "nude photos", "nudes", "orgy",
    "porn", "porno", "pornstar", "sex cams", "sexcam", "sex tape", "sex toys", "shit", "shitty",
    "slut", "sluts", "striptease", "tits", "wanker", "whore", "whores", "xxx videos",
)  # fmt: skip
WORD = re.compile(r"\w+")
Entries = dict[str, list[tuple[str, ...]]]  # by first word, entries as words, the longest first


def flagged_share(texts: Sequence[str], words: Iterable[str] = ENGLISH) -> NDArray[np.float64]:
    """The share of each text's words that belong to an entry of the list.

    Words are runs of letters, digits and underscores, in lower case, and an entry counts as whole
    words: "shit" is not in "Shitake", and "sex toys" is two words in this order with anything
    else than words between. Where entries overlap, the one that begins first counts, the longer
    of two. Scripts that put no space between words have no words in this sense.

    Returns:
        Shares in [0, 1] of shape [len(texts)]; 0 of a text without words.
    """
    entries = _entries(tuple(words))
    return np.array([_share(text, entries) for text in texts], np.float64)


def _share(text: str, entries: Entries) -> float:
    words = WORD.findall(text.lower())
    if entries.keys().isdisjoint(words):
        return 0.0
    flagged = at = 0
    while at < len(words):
        length = _entry_length(words, at, entries)
        flagged += length
        at += length or 1
    return flagged / len(words)


def _entry_length(words: list[str], at: int, entries: Entries) -> int:
    """The number of words of the entry that begins at word `at`; 0 if none does."""
    for entry in entries.get(words[at], ()):
        if tuple(words[at : at + len(entry)]) == entry:
            return len(entry)
    return 0


@cache
def _entries(words: tuple[str, ...]) -> Entries:
    entries: Entries = {}
    # In this order an entry stands before those that it begins with.
    for entry in sorted({tuple(WORD.findall(word.lower())) for word in words} - {()}, reverse=True):
        entries.setdefault(entry[0], []).append(entry)
    return entries
