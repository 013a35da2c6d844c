"""Document filters for prose: the published heuristics of Gopher, C4 and FineWeb, and language.

The text of a document is its text parts joined by newlines. A word is what stands between white
space, without the punctuation around it; a line is what stands between newlines, stripped, and
blank lines do not count. Scripts that put no space between words have no words in this sense.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from filters.rules import Filter, Mask, Rule, above, below, flag, measured, share
from shards import schema

PUNCTUATION = string.punctuation + "‘’‚“”„«»‹›…–—―·•‣◦▪′″¿¡§©®™、。，！？；：（）「」『』【】《》"
TERMINAL = (".", "!", "?", '"', "'", "”", "’", "。", "！", "？")
BULLETS = ("•", "‣", "◦", "▪", "-", "*")
ELLIPSES = ("...", "…")
GOPHER_STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
# A run of marks is entered at its start only, so that a page of dots takes linear time.
SENTENCE_END = re.compile(r"(?<![.!?])[.!?]+(?=[\"'”’)\]]*(?:\s|$))|[。！？]+")
BOILERPLATE = re.compile(
    "javascript|terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies"
)
BLANK_LINES = re.compile(r"\n\s*\n")
LARGEST_GRAM = 10
ENGLISH = ["en"]


def split_words(text: str) -> list[str]:
    """The words of `text`, in order; symbols that stand alone are no words."""
    return [word for token in text.split() if (word := token.strip(PUNCTUATION))]


def split_lines(text: str) -> list[str]:
    """The lines of `text`, stripped, without blank ones."""
    return [line for row in text.split("\n") if (line := row.strip())]


def ngram_ids(words: list[str], largest: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For n = 2, 3, ... `largest`: n, and a number for the n-gram that starts at each word.

    Equal n-grams have equal numbers in [0, number of distinct n-grams). Stops before an n that
    is longer than the text.
    """
    codes: dict[str, int] = {}
    singles = np.array([codes.setdefault(word, len(codes)) for word in words], np.int64)
    grams = singles
    for n in range(2, min(largest, len(words)) + 1):
        longer = grams[:-1] * len(codes) + singles[n - 1 :]
        grams = np.unique(longer, return_inverse=True)[1]
        yield n, grams


def gopher_quality(
    batch: pa.Table,
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

    Word counts, lengths in characters, and symbols per word are over words; the share of words
    with a letter counts symbols that stand alone as words without one. Stop words are counted
    distinct and in lower case only, as the code of FineWeb does where the paper does not say.
    """
    texts = schema.texts(batch)
    words = [split_words(text) for text in texts]
    lines = [split_lines(text) for text in texts]
    count = measured(len, words)
    mean_length = share(measured(_characters, words), count)
    hashes = share(measured(lambda text: text.count("#"), texts), count)
    ellipses = share(measured(lambda text: sum(map(text.count, ELLIPSES)), texts), count)
    bullets = _line_share(lines, lambda line: line.startswith(BULLETS))
    trailing = _line_share(lines, lambda line: line.endswith(ELLIPSES))
    tokens = measured(lambda text: len(text.split()), texts)
    alphabetic = share(measured(_alphabetic, words), tokens)
    stop_words = measured(lambda row: len(GOPHER_STOP_WORDS.intersection(row)), words)
    return [
        below("gopher_too_few_words", count, min_words),
        above("gopher_too_many_words", count, max_words),
        below("gopher_words_too_short", mean_length, min_mean_word_length),
        above("gopher_words_too_long", mean_length, max_mean_word_length),
        above("gopher_too_many_hashes", hashes, max_hashes_per_word),
        above("gopher_too_many_ellipses", ellipses, max_ellipses_per_word),
        above("gopher_too_many_bullet_lines", bullets, max_bullet_lines),
        above("gopher_too_many_ellipsis_lines", trailing, max_ellipsis_lines),
        below("gopher_too_few_alphabetic_words", alphabetic, min_alphabetic_words),
        below("gopher_too_few_stop_words", stop_words, min_stop_words),
    ]


def gopher_repetition(
    batch: pa.Table,
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
    occurrence is none. The top n-gram is the most frequent one, if it stands there twice at least.
    Every share of characters is of the characters of lines, paragraphs or words: white space
    between them is not counted, and overlapping n-grams count a word once.
    """
    texts = schema.texts(batch)
    words = [split_words(text) for text in texts]
    lines = _table([_duplicates(split_lines(text)) for text in texts], 2)
    paragraphs = _table([_duplicates(_paragraphs(text)) for text in texts], 2)
    grams = _table([_gram_shares(row) for row in words], LARGEST_GRAM + 1)
    top = {2: max_top_2_gram, 3: max_top_3_gram, 4: max_top_4_gram}
    duplicate = {
        5: max_duplicate_5_grams,
        6: max_duplicate_6_grams,
        7: max_duplicate_7_grams,
        8: max_duplicate_8_grams,
        9: max_duplicate_9_grams,
        10: max_duplicate_10_grams,
    }
    return [
        flag("gopher_no_words", measured(len, words) == 0),
        above("gopher_duplicate_lines", lines[:, 0], max_duplicate_lines),
        above("gopher_duplicate_paragraphs", paragraphs[:, 0], max_duplicate_paragraphs),
        above("gopher_duplicate_line_characters", lines[:, 1], max_duplicate_line_characters),
        above(
            "gopher_duplicate_paragraph_characters",
            paragraphs[:, 1],
            max_duplicate_paragraph_characters,
        ),
        *[above(f"gopher_top_{n}_gram", grams[:, n], top[n]) for n in top],
        *[above(f"gopher_duplicate_{n}_grams", grams[:, n], duplicate[n]) for n in duplicate],
    ]


def c4(
    batch: pa.Table,
    *,
    lorem_ipsum: bool = True,
    curly_bracket: bool = True,
    max_word_length: int | None = 1000,
    max_boilerplate_lines: float | None = 0.2,
    min_sentences: int | None = 5,
    min_line_words: int = 3,
) -> list[Rule]:
    """The page rules of C4 (Raffel et al. 2020, JMLR 21(140), section 2.2), without its edits.

    C4 deletes lines: here they stay, and do not count. Sentences are counted in lines of at least
    `min_line_words` words that name neither JavaScript nor a policy, at least one a line; that a
    line ends in punctuation is left to `fineweb`, as FineWeb does. 5 sentences and 3 words are
    datatrove's; DCLM asks 3 and 5, and quotations of the paper differ. The limit on boilerplate
    lines is this project's own, since C4 only deletes them, and a word that is too long costs the
    document where it costs its line in C4. `lorem_ipsum` and `curly_bracket` say whether these
    drop a page.
    """
    texts = [text.lower() for text in schema.texts(batch)]
    lines = [split_lines(text) for text in texts]
    longest = measured(lambda text: max(map(len, text.split()), default=0), texts)
    boilerplate = _line_share(lines, _is_boilerplate)
    sentences = measured(lambda rows: _sentences(rows, min_line_words), lines)
    placeholder = np.array([lorem_ipsum and "lorem ipsum" in text for text in texts], bool)
    code = np.array([curly_bracket and "{" in text for text in texts], bool)
    return [
        flag("c4_lorem_ipsum", placeholder),
        flag("c4_curly_bracket", code),
        above("c4_word_too_long", longest, max_word_length),
        above("c4_too_many_boilerplate_lines", boilerplate, max_boilerplate_lines),
        below("c4_too_few_sentences", sentences, min_sentences),
    ]


def fineweb(
    batch: pa.Table,
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
    a limit, and adds the newlines per word. It made the dataset, and is followed here.
    """
    texts = schema.texts(batch)
    lines = [split_lines(text) for text in texts]
    terminated = _line_share(lines, lambda line: line.endswith(TERMINAL))
    short = _line_share(lines, lambda line: len(line) <= short_line)
    duplicate = _table([_duplicates(rows) for rows in lines], 2)[:, 1]
    newlines = measured(lambda text: text.count("\n"), texts)
    per_word = share(newlines, measured(lambda text: len(split_words(text)), texts))
    return [
        below("fineweb_too_few_terminated_lines", terminated, min_terminated_lines),
        above("fineweb_too_many_short_lines", short, max_short_lines),
        above("fineweb_duplicate_line_characters", duplicate, max_duplicate_line_characters),
        above("fineweb_too_many_newlines", per_word, max_newlines_per_word),
    ]


def language(
    batch: pa.Table, *, keep: list[str] = ENGLISH, min_score: float | None = 0.65
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


def _characters(words: list[str]) -> int:
    return sum(map(len, words))


def _alphabetic(words: list[str]) -> int:
    counts = Counter(words)
    return sum(n for word, n in counts.items() if word.isalpha() or any(map(str.isalpha, word)))


def _table(rows: Sequence[ArrayLike], width: int) -> NDArray[np.float64]:
    return np.array(rows, np.float64).reshape(-1, width)


def _line_share(lines: list[list[str]], holds: Callable[[str], bool]) -> NDArray[np.float64]:
    found = measured(lambda rows: sum(map(holds, rows)), lines)
    return share(found, measured(len, lines))


def _is_boilerplate(line: str) -> bool:
    return BOILERPLATE.search(line) is not None


def _sentences(lines: list[str], min_words: int) -> int:
    counted = (
        line for line in lines if len(line.split()) >= min_words and not _is_boilerplate(line)
    )
    return sum(max(1, len(SENTENCE_END.findall(line))) for line in counted)


def _paragraphs(text: str) -> list[str]:
    return [part for block in BLANK_LINES.split(text) if (part := block.strip())]


def _duplicates(items: list[str]) -> tuple[float, float]:
    """The share of `items` that stood earlier in the list, and of their characters."""
    if not items:
        return 0.0, 0.0
    unique = set(items)
    characters = _characters(items)
    repeated = characters - sum(map(len, unique))
    return (len(items) - len(unique)) / len(items), repeated / characters


def _gram_shares(words: list[str]) -> NDArray[np.float64]:
    """At index n the share of characters in the top n-gram (n < 5) or in duplicate n-grams."""
    shares = np.zeros(LARGEST_GRAM + 1)
    lengths = np.array([len(word) for word in words], np.int64)
    for n, grams in ngram_ids(words, LARGEST_GRAM):
        counts = np.bincount(grams)
        if counts.max() == 1:
            break  # no longer n-gram can stand twice either
        starts = _most_frequent(grams, counts) if n < 5 else _repeated(grams)
        shares[n] = lengths[_covered(starts, n)].sum() / lengths.sum()
    return shares


def _most_frequent(grams: NDArray[np.int64], counts: NDArray[np.int64]) -> Mask:
    # Of equally frequent ones the first: the paper does not say.
    starts: Mask = grams == grams[counts[grams].argmax()]
    return starts


def _repeated(grams: NDArray[np.int64]) -> Mask:
    starts = np.ones(len(grams), bool)
    starts[np.unique(grams, return_index=True)[1]] = False
    return starts


def _covered(starts: Mask, n: int) -> Mask:
    """Which words are inside an n-gram, from which n-grams count."""
    return np.asarray(np.convolve(starts, np.ones(n, np.int64)) > 0)


FILTERS: dict[str, Filter] = {
    f.__name__: f for f in (gopher_quality, gopher_repetition, c4, fineweb, language)
}
