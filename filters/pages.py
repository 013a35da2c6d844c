"""Document filters for pages of text and images: the document rules of OBELICS.

Limits are those of the released configuration and of table 3 of the paper (Laurençon et al. 2023,
arXiv 2306.16527, appendix A.1), which agree for whole documents. The text of a page is its text
parts joined by newlines. A word is what stands between white space, without the punctuation around
it. A rule that judges text drops a page without any word, as "page_no_words".
"""

import re
import string
from collections import Counter

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.prose import Batch, prose
from filters.rules import Filter, Mask, Rule, above, below, flag, measured, share
from filters.text import language
from shards import schema

PUNCTUATION = string.punctuation + "‘’‚“”„«»‹›…–—―·•‣◦▪′″¿¡§©®™、。，！？；：（）「」『』【】《》"
CHARACTER_GRAM = 10
WORD_GRAM = 5
# Odd, so that multiplying by it loses no bits modulo 2^64.
HASH_BASE = 0x9E3779B97F4A7C15
MARKS = frozenset(PUNCTUATION)
SPECIAL = re.compile(r"[\W\d_]")
WORD_OR_MARK = re.compile(f"[\\w']+|[{re.escape(PUNCTUATION)}]")
# The closed classes of English: articles, pronouns, prepositions, conjunctions, auxiliaries and
# the adverbs that are as common.
FUNCTION_WORDS = """
a an the this that these those such each every either neither some any no none both all half
another other others same own few many much more most less least several enough one ones
i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his
himself she her hers herself it its itself they them their theirs themselves who whom whose
which what whatever whoever whichever someone somebody something anyone anybody anything
everyone everybody everything nobody nothing
about above across after against along among amongst around as at before behind below beneath
beside besides between beyond by despite down during except for from in inside into like near
of off on onto out outside over past per since through throughout till to toward towards under
until up upon via with within without
and or nor but so yet if unless because although though while whereas whether than then when
whenever where wherever why how however therefore thus hence
be am is are was were been being do does did doing done have has had having can could may might
must shall should will would ought cannot
not never ever always often sometimes again once twice also too very just only even still
already almost quite rather really here there now today back away else instead perhaps maybe
let lets i'm you're he's she's it's we're they're i've you've we've they've i'd you'd he'd
she'd we'd they'd i'll you'll he'll she'll we'll they'll isn't aren't wasn't weren't don't
doesn't didn't haven't hasn't hadn't can't couldn't mustn't shouldn't won't wouldn't that's
there's what's who's where's here's let's
"""
STOP_WORDS = frozenset(FUNCTION_WORDS.split())


def split_words(text: str) -> list[str]:
    """The words of `text`, in order; symbols that stand alone are no words."""
    return [word for token in text.split() if (word := token.strip(PUNCTUATION))]


def page_images(batch: Batch, *, min: int | None = 1, max: int | None = 30) -> list[Rule]:
    """Keeps pages with 1 to 30 images; an image that stands twice counts twice."""
    rows, parts = schema.flatten_parts(batch)
    shown = rows.filter(pc.is_null(pc.struct_field(parts, "text")))
    images = np.bincount(shown.to_numpy(), minlength=batch.num_rows)
    return [below("page_too_few_images", images, min), above("page_too_many_images", images, max)]


def page_words(batch: Batch, *, min: int | None = 10, max: int | None = 2_000) -> list[Rule]:
    """Keeps pages of 10 to 2,000 words."""
    words = measured(lambda text: len(split_words(text)), prose(batch).texts)
    return [below("page_too_few_words", words, min), above("page_too_many_words", words, max)]


def page_special_characters(batch: Batch, *, max: float | None = 0.275) -> list[Rule]:
    """Drops pages of which more than 27.5 % of the characters are no letters.

    Digits, punctuation, symbols and white space are special, spaces among them, as in OBELICS.
    """
    texts = prose(batch).texts
    special = measured(lambda text: len(SPECIAL.findall(text)), texts)
    ratio = share(special, measured(len, texts))
    return [flag("page_no_words", _no_words(texts)), above("page_special_characters", ratio, max)]


def page_punctuation(batch: Batch, *, min: float | None = 0.03) -> list[Rule]:
    """Drops pages on which fewer than 3 % of words and punctuation marks are marks."""
    texts = prose(batch).texts
    tokens = [WORD_OR_MARK.findall(text) for text in texts]
    marks = measured(lambda row: sum(token in MARKS for token in row), tokens)
    ratio = share(marks, measured(len, tokens))
    return [
        flag("page_no_words", _no_words(texts)),
        below("page_too_little_punctuation", ratio, min),
    ]


def page_stop_words(batch: Batch, *, min: float | None = 0.35) -> list[Rule]:
    """Drops pages on which fewer than 35 % of the words are English stop words.

    The limit is that of OBELICS; the list is this project's own, the closed word classes.
    """
    texts = [text.lower().replace("’", "'") for text in prose(batch).texts]
    words = [split_words(text) for text in texts]
    found = measured(lambda row: sum(word in STOP_WORDS for word in row), words)
    count = measured(len, words)
    ratio = share(found, count)
    return [flag("page_no_words", count == 0), below("page_too_few_stop_words", ratio, min)]


def page_repetition(
    batch: Batch, *, max_characters: float | None = 0.1, max_words: float | None = 0.2
) -> list[Rule]:
    """Drops pages that repeat runs of 10 characters or of 5 words too often.

    Characters: of all runs of 10, the share held by the most frequent ones, of which as many count
    as the square root of the number of distinct runs, and none that stands once. Words, in lower
    case: the share of runs of 5 that stand more than once.
    """
    texts = prose(batch).texts
    characters = measured(_character_repetition, texts)
    words = measured(_word_repetition, texts)
    return [
        flag("page_no_words", _no_words(texts)),
        above("page_repeated_characters", characters, max_characters),
        above("page_repeated_words", words, max_words),
    ]


def _no_words(texts: list[str]) -> Mask:
    return np.array([not split_words(text) for text in texts], bool)


def _character_repetition(text: str) -> float:
    counts = np.sort(np.unique(_character_grams(text), return_counts=True)[1])[::-1]
    if not len(counts):
        return 0.0
    top = counts[: int(np.sqrt(len(counts)))]
    return float(top[top > 1].sum() / counts.sum())


def _character_grams(text: str) -> NDArray[np.uint64]:
    """A 64-bit polynomial hash of each run of `CHARACTER_GRAM` characters."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.uint64)
    if len(codes) < CHARACTER_GRAM:
        return codes[:0]
    powers = np.array([pow(HASH_BASE, k, 1 << 64) for k in range(CHARACTER_GRAM)], np.uint64)
    return np.convolve(codes, powers, "valid")


def _word_repetition(text: str) -> float:
    words = split_words(text.lower())
    counts = Counter(zip(*(words[i:] for i in range(WORD_GRAM)), strict=False))
    repeated = sum(count for count in counts.values() if count > 1)
    return repeated / max(1, counts.total())


FILTERS: dict[str, Filter] = {
    f.__name__: f
    for f in (
        page_images,
        page_words,
        page_special_characters,
        page_punctuation,
        page_stop_words,
        page_repetition,
        language,
    )
}
