"""Document filters for prose: the published heuristics of Gopher, C4 and FineWeb, and language.

Rules, thresholds and their reading are those of datatrove, with which FineWeb was made, where a
paper leaves room or differs; each filter says where it does not follow. The text of a document is
its text parts joined by newlines. Words are those of `filters.words`, marks among them; a symbol is
a word that is made of marks alone.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters import grams
from filters.prose import Batch, Prose, prose
from filters.rules import Filter, Mask, Rule, above, below, flag, measured, share
from filters.words import SYMBOLS, TERMINALS, Words, split

BULLETS = ("•", "-")
ELLIPSES = ("...", "…")
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
POLICIES = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
ENGLISH = ["en"]


def length(
    batch: Batch,
    *,
    min_words: int | None = None,
    max_words: int | None = None,
    min_characters: int | None = None,
    max_characters: int | None = None,
) -> list[Rule]:
    """Keeps texts of a length in words, symbols not counted, and in characters."""
    view = prose(batch)
    words = view.words.sums(~_symbols(view.words))
    return [
        below("length_too_few_words", words, min_words),
        above("length_too_many_words", words, max_words),
        below("length_too_few_characters", view.characters, min_characters),
        above("length_too_many_characters", view.characters, max_characters),
    ]


def gopher_quality(
    batch: Batch,
    *,
    min_words: int | None = 50,
    max_words: int | None = 100_000,
    min_mean_word_length: float | None = 3.0,
    max_mean_word_length: float | None = 10.0,
    max_hashes_per_word: float | None = 0.1,
    max_ellipses_per_word: float | None = 0.1,
    max_bullet_lines: float | None = 0.9,
    max_ellipsis_lines: float | None = 0.3,
    min_alphabetic_words: float | None = 0.8,
    min_stop_words: int | None = 2,
) -> list[Rule]:
    """The quality heuristics of Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A.1.1).

    The number of words and their mean length in characters leave symbols out; ratios to words
    count them, so that a text of many marks has few alphabetic words. Stop words are counted
    distinct and in lower case only. A text without words has a share of 0 in all; datatrove, run
    without its limit on the number of words, divides by zero there.
    """
    view = prose(batch)
    words, texts = view.words, view.texts
    symbols = _symbols(words)
    lines = [text.splitlines() for text in texts]
    spoken = words.sums(~symbols)
    mean_length = share(words.sums(np.where(symbols, 0, words.lengths)), spoken)
    hashes = share(measured(lambda text: text.count("#"), texts), words.counts)
    ellipses = share(measured(lambda text: sum(map(text.count, ELLIPSES)), texts), words.counts)
    bullets = _line_share(lines, lambda line: line.lstrip().startswith(BULLETS))
    trailing = _line_share(lines, lambda line: line.rstrip().endswith(ELLIPSES))
    alphabetic = share(words.sums(words.are(_has_letter)), words.counts)
    return [
        below("gopher_too_few_words", spoken, min_words),
        above("gopher_too_many_words", spoken, max_words),
        below("gopher_words_too_short", mean_length, min_mean_word_length),
        above("gopher_words_too_long", mean_length, max_mean_word_length),
        above("gopher_too_many_hashes", hashes, max_hashes_per_word),
        above("gopher_too_many_ellipses", ellipses, max_ellipses_per_word),
        above("gopher_too_many_bullet_lines", bullets, max_bullet_lines),
        above("gopher_too_many_ellipsis_lines", trailing, max_ellipsis_lines),
        below("gopher_too_few_alphabetic_words", alphabetic, min_alphabetic_words),
        below("gopher_too_few_stop_words", _stop_words(words), min_stop_words),
    ]


def gopher_repetition(
    batch: Batch,
    *,
    max_duplicate_lines: float | None = 0.30,
    max_duplicate_paragraphs: float | None = 0.30,
    max_duplicate_line_characters: float | None = 0.20,
    max_duplicate_paragraph_characters: float | None = 0.20,
    max_top_2_gram: float | None = 0.20,
    max_top_3_gram: float | None = 0.18,
    max_top_4_gram: float | None = 0.16,
    max_duplicate_5_grams: float | None = 0.15,
    max_duplicate_6_grams: float | None = 0.14,
    max_duplicate_7_grams: float | None = 0.13,
    max_duplicate_8_grams: float | None = 0.12,
    max_duplicate_9_grams: float | None = 0.11,
    max_duplicate_10_grams: float | None = 0.10,
) -> list[Rule]:
    """The repetition heuristics of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1).

    A duplicate is a line, paragraph or n-gram that stood earlier in the document; its first
    occurrence is none, and of overlapping duplicate n-grams the first counts. The top n-gram is the
    most frequent one, even if that stands once, so that a text of a few words is dropped. Every
    share is of all characters of the text, its white space among them.

    Lines are parted by newlines, paragraphs by two or more. Two n-grams are equal if their words
    are; datatrove compares them joined, and so takes "can not" for "cannot". It also counts an
    empty line where a text starts or ends with a newline, and fails on no text.
    """
    view = prose(batch)
    lines = [_duplicates([line for line in text.split("\n") if line]) for text in view.texts]
    paragraphs = [_duplicates(_paragraphs(text)) for text in view.texts]
    limits = {
        2: max_top_2_gram,
        3: max_top_3_gram,
        4: max_top_4_gram,
        5: max_duplicate_5_grams,
        6: max_duplicate_6_grams,
        7: max_duplicate_7_grams,
        8: max_duplicate_8_grams,
        9: max_duplicate_9_grams,
        10: max_duplicate_10_grams,
    }
    line_characters = share(_column(lines, 1), view.characters)
    paragraph_characters = share(_column(paragraphs, 1), view.characters)
    return [
        flag("gopher_no_words", view.words.counts == 0),
        above("gopher_duplicate_lines", _column(lines, 0), max_duplicate_lines),
        above("gopher_duplicate_paragraphs", _column(paragraphs, 0), max_duplicate_paragraphs),
        above("gopher_duplicate_line_characters", line_characters, max_duplicate_line_characters),
        above(
            "gopher_duplicate_paragraph_characters",
            paragraph_characters,
            max_duplicate_paragraph_characters,
        ),
        *[_gram_rule(view, found, limits[found.n]) for found in grams.repeated(view.words, 10)],
    ]


def c4(
    batch: Batch,
    *,
    lorem_ipsum: bool = True,
    curly_bracket: bool = True,
    min_sentences: int | None = 5,
    min_line_words: int = 3,
    max_word_length: int = 1000,
) -> list[Rule]:
    """The page rules of C4 (Raffel et al. 2020, JMLR 21(140), section 2.2), without its edits.

    C4 deletes lines before it looks at the page: here they stay, and do not count. Those are lines
    with fewer than `min_line_words` words between white space or with one of more than
    `max_word_length` characters, which do not count for any rule; and lines that name JavaScript,
    then those that name a policy, which do not count for the rules after: a curly bracket beside
    "JavaScript" is none. Marks of citation count as deleted too. That a line ends in punctuation is
    left to `fineweb`, as FineWeb does. 5 sentences and 3 words are datatrove's; DCLM asks 3 and 5,
    and quotations of the paper differ.

    `lorem_ipsum` and `curly_bracket` say whether these drop a page.
    """
    view = prose(batch)
    lines = _Lines(view)
    counted = (lines.pieces >= min_line_words) & ~lines.with_longer_pieces(max_word_length)
    placeholder = lines.sums(counted & lines.holding("lorem ipsum")) > 0
    counted &= ~lines.holding("javascript")
    code = lines.sums(counted & lines.holding("{")) > 0
    for phrase in POLICIES:
        counted &= ~lines.holding(phrase)
    sentences = lines.sums(np.where(counted, lines.sentences(), 0))
    return [
        flag("c4_lorem_ipsum", placeholder & lorem_ipsum),
        flag("c4_curly_bracket", code & curly_bracket),
        below("c4_too_few_sentences", sentences, min_sentences),
    ]


def fineweb(
    batch: Batch,
    *,
    min_terminated_lines: float | None = 0.12,
    max_short_lines: float | None = 0.67,
    short_line: int = 30,
    max_duplicate_line_characters: float | None = 0.01,
    max_newlines_per_word: float | None = 0.3,
) -> list[Rule]:
    """The custom rules of FineWeb (Penedo et al. 2024, arXiv 2406.17557, section 3.6).

    The paper drops a document when 12 % of its lines or fewer end in punctuation, when 67 % or
    more have at most 30 characters, and when 10 % or more of its characters are in duplicated
    lines. The released code (datatrove) says 1 % for the last, keeps a document that is exactly on
    a limit, and adds the newlines per word. It made the dataset, and is followed here: also in that
    white space is part of a line, and that a quotation mark does not end one. A text without words
    has a share of 0 in all, where datatrove divides by zero.
    """
    view = prose(batch)
    lines = [[line for line in text.split("\n") if line.strip()] for text in view.texts]
    terminated = _line_share(lines, lambda line: line[-1] in TERMINALS)
    short = _line_share(lines, lambda line: len(line) <= short_line)
    newlines = measured(lambda text: text.count("\n"), view.texts)
    repeated = _column([_duplicates(row) for row in lines], 1)
    duplicate = share(repeated, view.characters - newlines)
    per_word = share(newlines, view.words.counts)
    return [
        below("fineweb_too_few_terminated_lines", terminated, min_terminated_lines),
        above("fineweb_too_many_short_lines", short, max_short_lines),
        above("fineweb_duplicate_line_characters", duplicate, max_duplicate_line_characters),
        above("fineweb_too_many_newlines", per_word, max_newlines_per_word),
    ]


def language(
    batch: Batch, *, keep: list[str] = ENGLISH, min_score: float | None = 0.65
) -> list[Rule]:
    """Keeps documents in one of the languages `keep`, if the identifier was sure enough.

    Reads the column `language` and the score "language", which `filters.language` computes. 0.65
    is the least fastText score in RefinedWeb (Penedo et al. 2023, arXiv 2306.01116) and in
    FineWeb; OBELICS asks 0.8.
    """
    kept = pc.is_in(batch["language"], value_set=pa.array(keep, pa.string())).to_numpy()
    scores = pc.map_lookup(batch["scores"], "language", "first").to_numpy()
    # A document without a score is as uncertain as one with the least score there is.
    scores = np.nan_to_num(scores, nan=0.0)
    return [flag("language_not_kept", ~kept), below("language_uncertain", scores, min_score)]


class _Lines:
    """The lines of some texts, end to end."""

    def __init__(self, view: Prose) -> None:
        rows = [text.splitlines() for text in view.texts]
        self.view = view
        self.lines = [line for row in rows for line in row]
        self.ends = np.cumsum([0, *map(len, rows)])
        self.pieces = split(self.lines)[1]

    def holding(self, phrase: str) -> Mask:
        """Which lines have a phrase of lower case letters, in any case."""
        texts = np.array([phrase in text for text in self.view.lower_texts], bool)
        found = np.repeat(texts, np.diff(self.ends))
        found[found] = [phrase in self.lines[i].lower() for i in np.flatnonzero(found)]
        return found

    def with_longer_pieces(self, longest: int) -> Mask:
        """Which lines have more characters than `longest` without white space between them."""
        long = measured(len, self.lines) > longest
        long[long] = [
            max(map(len, self.lines[i].split()), default=0) > longest for i in np.flatnonzero(long)
        ]
        return long

    def sentences(self) -> NDArray[np.int64]:
        """How many sentences each line has without marks of citation."""
        sentences = self.view.words.lines(self.pieces).sentences()
        cited = np.flatnonzero(self.holding("["))
        edited = [CITATION.sub("", self.lines[i]) for i in cited]
        sentences[cited] = self.view.vocabulary.read(edited).sentences()
        return sentences

    def sums(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """For each text the sum of its lines' values."""
        sums: NDArray[np.int64] = np.diff(
            np.append(0, np.cumsum(values, dtype=np.int64))[self.ends]
        )
        return sums


def _gram_rule(view: Prose, found: grams.Repeated, limit: float | None) -> Rule:
    if found.n < 5:
        top = grams.top_characters(view.words, found)
        return above(f"gopher_top_{found.n}_gram", share(top, view.characters), limit)
    repeated = grams.duplicate_characters(view.words, found)
    return above(f"gopher_duplicate_{found.n}_grams", share(repeated, view.characters), limit)


def _symbols(words: Words) -> Mask:
    return words.are(SYMBOLS.issuperset)


def _has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))


def _stop_words(words: Words) -> NDArray[np.int64]:
    """How many of `STOP_WORDS` stand in each text."""
    found = np.zeros(len(words.counts), np.int64)
    for word in STOP_WORDS:
        at = np.flatnonzero(words.codes == words.vocabulary.number(word))
        found += np.bincount(words.texts[at], minlength=len(found)) > 0
    return found


def _line_share(lines: list[list[str]], holds: Callable[[str], bool]) -> NDArray[np.float64]:
    found = measured(lambda row: sum(map(holds, row)), lines)
    return share(found, measured(len, lines))


def _paragraphs(text: str) -> list[str]:
    """What stands between runs of two or more newlines."""
    blocks = (block.lstrip("\n") for block in text.strip().split("\n\n"))
    return [block for block in blocks if block]


def _duplicates(items: list[str]) -> tuple[float, int]:
    """The share of `items` that stood earlier in the list, and their characters."""
    unique = set(items)
    if len(unique) == len(items):
        return 0.0, 0
    repeated = sum(map(len, items)) - sum(map(len, unique))
    return (len(items) - len(unique)) / len(items), repeated


def _column(rows: Sequence[tuple[float, int]], index: int) -> NDArray[np.float64]:
    return np.array([row[index] for row in rows], np.float64)


FILTERS: dict[str, Filter] = {
    f.__name__: f for f in (length, gopher_quality, gopher_repetition, c4, fineweb, language)
}
