"""Passages of texts, known by a hash, so that those that repeat can be found and taken out.

A passage is a line, a paragraph (between blank lines) or a run of sentences. Two are the same if
they differ in case, punctuation and space only; one without words is like no other.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from filters import minhash
from filters.rules import Mask

NO_KEY = minhash.NO_KEY

LINE_END = re.compile(r"\n")
PARAGRAPH_END = re.compile(r"\n\s*\n")
# Marks and closing quotes before white space, or a line's end. A run of marks is entered at its
# start only, so that a page of dots takes linear time.
SENTENCE_END = re.compile(
    r"(?<![.!?…])[.!?…]+[\"'”’»)\]]*\s+|(?<![。！？])[。！？]+[”’」』]*\s*|\n\s*"
)
ENDS = {"line": LINE_END, "paragraph": PARAGRAPH_END, "sentence": SENTENCE_END}


@dataclass(frozen=True)
class Passages:
    """The pieces of some texts, end to end, and the passages that start with them.

    Attributes:
        pieces: lines, paragraphs or sentences, with the space behind them; joined they are the
            texts.
        texts: the number of the text that each piece is of.
        words: how many each piece has.
        keys: a hash of the passage that starts with each piece, `NO_KEY` where none does.
        ends: the piece behind the last one of that passage.
    """

    pieces: list[str]
    texts: NDArray[np.int64]
    words: NDArray[np.int64]
    keys: NDArray[np.uint64]
    ends: NDArray[np.int64]


def passages(texts: list[str], unit: str, span: int = 1) -> Passages:
    """The runs of `span` lines, paragraphs or sentences of each text, those with words counted.

    Spans of three sentences are C4's (Raffel et al. 2020, section 2.2), which overlap; those of
    datatrove's implementation are cut by another splitter of sentences.
    """
    cut = [split(text, unit) for text in texts]
    pieces = [piece for each in cut for piece in each]
    owners = np.repeat(np.arange(len(texts)), [len(each) for each in cut])
    hashes, words = minhash.fingerprints(pieces)
    keys, ends = np.full(len(pieces), NO_KEY, np.uint64), np.arange(len(pieces))
    worded = np.flatnonzero(words)
    first, last = worded[: max(0, len(worded) - span + 1)], worded[span - 1 :]
    whole = owners[first] == owners[last]
    keys[first[whole]] = _spans(hashes[worded], span)[whole]
    ends[first[whole]] = last[whole] + 1
    return Passages(pieces, owners, words, keys, ends)


def split(text: str, unit: str) -> list[str]:
    """The lines, paragraphs or sentences of a text, each with the space behind it."""
    cuts = [0, *(end.end() for end in ENDS[unit].finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(cuts) if a < b]


def _spans(hashes: NDArray[np.uint64], span: int) -> NDArray[np.uint64]:
    """A hash of each run of so many hashes."""
    count = max(0, len(hashes) - span + 1)
    found = np.zeros(count, np.uint64)
    for k in range(span):
        found = (found ^ hashes[k : k + count]) * np.uint64(minhash.VALUE)
        found ^= found >> np.uint64(32)
    return np.maximum(found, 1)


def covered(found: Passages, lost: Mask) -> Mask:
    """The pieces of the passages that `lost` says; both of shape [pieces]."""
    steps = np.zeros(len(lost) + 1, np.int64)
    np.add.at(steps, np.flatnonzero(lost), 1)
    np.add.at(steps, found.ends[lost], -1)
    inside: Mask = np.cumsum(steps[:-1]) > 0
    return inside


def without(texts: list[str], found: Passages, gone: Mask) -> list[str]:
    """The texts without some of their pieces, of shape [texts]."""
    edited = list(texts)
    starts = np.searchsorted(found.texts, np.arange(len(texts) + 1))
    for text in np.unique(found.texts[gone]).tolist():
        own = range(starts[text], starts[text + 1])
        edited[text] = "".join(found.pieces[i] for i in own if not gone[i]).strip()
    return edited
