"""Words as spaCy's English tokenizer cuts them, counted over a whole batch at once.

The thresholds of Gopher, C4 and FineWeb were applied by datatrove to spaCy's tokens, in which a
punctuation mark is a word of its own and "don't" is two. How text is cut moves those decisions, so
its rules are followed here: white space first, then marks off both ends of what stands between,
then hyphens and the like inside. What stands between white space is cut alike wherever it stands,
so that each distinct piece of a batch is cut once, and all else is arithmetic on numbers of words.

Not followed: most emoticons, and that a prefix is tried again after each suffix.
"""

import re
import string
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.rules import Mask

Numbers = NDArray[np.int64]

# A piece without white space that is longer is left whole.
LONGEST_PIECE = 1000
CACHED = 2**17  # pieces that are not cut again; those of English prose come back batch after batch

# The Unicode property Sentence_Terminal, as hexadecimal ranges.
SENTENCE_TERMINAL = """
21 2e 3f 589 61d-61f 6d4 700-702 7f9 837 839 83d-83e 964-965 104a-104b 1362 1367-1368 166e
1735-1736 17d4-17d6 17d9-17da 1803 1809 1944-1945 1aa8-1aab 1b5a-1b5b 1b5e-1b5f 1b7d-1b7e
1c3b-1c3c 1c7e-1c7f 203c-203d 2047-2049 2e2e 2e3c 2e53-2e54 3002 a4ff a60e-a60f a6f3 a6f7
a876-a877 a8ce-a8cf a92f a9c8-a9c9 aa5d-aa5f aaf0-aaf1 abeb fe52 fe56-fe57 ff01 ff0e ff1f ff61
10a56-10a57 10f55-10f59 10f86-10f89 11047-11048 110be-110c1 11141-11143 111c5-111c6 111cd
111de-111df 11238-11239 1123b-1123c 112a9 1144b-1144c 115c2-115c3 115c9-115d7 11641-11642
1173c-1173e 11944 11946 11a42-11a43 11a9b-11a9c 11c41-11c42 11ef7-11ef8 11f43-11f44 16a6e-16a6f
16af5 16b37-16b38 16b44 16e98 1bc9f 1da88
"""


def _characters(ranges: str) -> frozenset[str]:
    """The characters of hexadecimal code points and ranges of them."""
    limits = [part.partition("-") for part in ranges.split()]
    spans = [range(int(low, 16), int(high or low, 16) + 1) for low, _, high in limits]
    return frozenset(map(chr, chain(*spans)))


TERMINALS = _characters(SENTENCE_TERMINAL)
SYMBOLS = TERMINALS.union(
    string.punctuation,
    "«»´–—’“”„…∶━►、〈〉《》「」【】％（），１：；～",
    _characters("0-8 b-1f 7f-9f"),  # control characters
)


HALVES = ("am", "pm", "a.m.", "p.m.")
WHOLE = """
a. b. c. d. e. f. g. h. i. j. k. l. m. n. o. p. q. r. s. t. u. v. w. x. y. z. ä. ö. ü.
a.m. p.m. e.g. i.e. E.g. I.e. v.s. vs. and/or w/o co. D.C. N.C. N.D. N.H. N.J. N.M. N.Y. S.C. Ph.D.
Adm. Bros. Co. Corp. Dr. Gen. Gov. Inc. Jr. Ltd. Messrs. Mr. Mrs. Ms. Mt. Prof. Rep. Rev. Sen. St.
Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec.
Ak. Ala. Ariz. Ark. Calif. Colo. Conn. Del. Fla. Ga. Ia. Id. Ill. Ind. Kan. Kans. Ky. La. Mass. Md.
Mich. Minn. Miss. Mo. Mont. Neb. Nebr. Nev. Okla. Ore. Pa. Tenn. Va. Wash. Wis.
'' 's 'S 'd 'll 're 'em 'cause ’’ ’s ’S ’d ’ll ’re ’em ’cause ma'am ma’am o'clock o’clock C++
:) :-) :( :-( ;) ;-) :D :-D :P :-P :p :/ 8) <3 =) :O :o :1 :3 :0 :x :X 0.0 ^_^ (: =D
"""


def _contractions() -> dict[str, tuple[str, ...]]:
    """Pieces that are not cut by the rules: contracted words, abbreviations, some emoticons."""
    cut: dict[str, tuple[str, ...]] = {}
    for words, endings in (
        ("i", "'m 've"),
        ("he she it", "'s"),
        ("you we they", "'re 've"),
        ("that there this what when where who why how", "'s"),
        ("there these those what when where who why how", "'re 've"),
        ("i you he she it we they that this these those there who what when where why how", "'d"),
        ("i you he she it we they that this these those there who what when where why how", "'ll"),
        ("could might must not should would", "'ve"),
        ("ai are ca could dare did does do had has have is may might must need ought sha", "n't"),
        ("should was were wo would", "n't"),
    ):
        for word in words.split():
            for ending in endings.split():
                cut[word + ending] = (word, ending)
                cut[word + ending.replace("'", "")] = (word, ending.replace("'", ""))
    for word in ["ill", "shed", "shell", "hell", "well", "were", "its", "whore"]:
        cut[word] = (word,)  # words of their own
    for pair in ["can-not", "gon-na", "got-ta", "let-'s", "c'm-on", "y'-all", "y-all", "i'm-a"]:
        left, right = pair.split("-")
        cut[left + right] = (left, right)
    cut |= {f"{hour}{half}": (f"{hour}", half) for hour in range(1, 13) for half in HALVES}
    longer = [(word, parts) for word, parts in cut.items() if parts[-1] in ("'d", "'ll", "n't")]
    cut |= {word + "'ve": (*parts, "'ve") for word, parts in longer}
    cut |= {word.capitalize(): (parts[0].capitalize(), *parts[1:]) for word, parts in cut.items()}
    cut |= {
        word.replace("'", "’"): tuple(part.replace("'", "’") for part in parts)
        for word, parts in cut.items()
    }
    return cut | {word: (word,) for word in WHOLE.split()}


CUT = _contractions()

_QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉⟦⟧"
_MARKS = "…,:;!?¿؟¡()\\[\\]{}<>_#*&。？！，、；：～·।،۔؛٪" + _QUOTES
# Symbols of the Unicode category So, by their largest blocks.
_ICONS = "¦©®°℀-℁℃-℆℈-℉℔№-℗℞-℣℮↕-↙↜-↟␀-⑊⒜-ⓩ─-▶▸-◀◂-◷☀-♮♰-➿⬀-⯿㈀-㏿\U0001f000-\U0001faff�"
_CURRENCY = "$£€¥฿₠-⃀﷼"
_LETTER = r"[^\W\d_]"
_LOWER = "a-zß-öø-ÿāăąćčďđēėęěğīįłńňōőœřśşšţťūůűźżžа-яёα-ωάέήίόύώ"
_UPPER = "A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĖĘĚĞĪĮŁŃŇŌŐŒŘŚŞŠŢŤŪŮŰŹŻŽА-ЯЁΑ-ΩΆΈΉΊΌΎΏ"
_UNCASED = "֐-׿؀-ۿऀ-෿฀-๿぀-ヿ㐀-鿿가-힣"
_UNITS = (
    "(?:km[²³]?|[dcm]?m[²³]?|ha|[µn]m|yd|in|ft|[kmµ]?g|t|lb|oz|m/s|km/h|kmh|mph|hPa|Pa|mbar|"
    "[mMkKgGtT][bB]|[TGMK]|%)"
)
# What is cut off the start of a piece, off its end, and what cuts it inside.
_PREFIX = re.compile(rf"\.\.+|\+(?!\d)|(?:US|C|A)\$|[§%=—–{_MARKS}{_ICONS}{_CURRENCY}]")
_PREFIXES = re.compile(f"(?:{_PREFIX.pattern})*")
_SUFFIX = re.compile(
    rf"(?:(?<!\.)\.\.+|['’][sS]|\):|''|[—–{_MARKS}{_ICONS}]|(?<=\d)(?:\+|[{_CURRENCY}]|{_UNITS})"
    rf"|(?<=[\d{_LOWER}{_UNCASED}%²+\-{_MARKS}])\.|(?<=[{_UPPER}{_UNCASED}]{{2}})\.)\Z"
)
_INFIX = re.compile(
    rf"(\.\.+|[…{_ICONS}]|(?<=\d)[+\-*^](?=[\d\-])"
    rf"|(?<=[{_LOWER}{_UNCASED}{_QUOTES}])\.(?=[{_UPPER}{_UNCASED}{_QUOTES}])"
    rf"|(?<={_LETTER}),(?={_LETTER})|(?<=[^\W_])(?:---?|——|[-–—~])(?={_LETTER})"
    rf"|(?<=[^\W_])[:<>=/](?={_LETTER}))"
)
# An e-mail or web address is not cut inside, a file's name neither.
_ADDRESS = re.compile(
    rf"(?:[\w+\-.]{{2,}}://)?(?:[^\s@]+@)?"
    rf"(?:[^\W_](?:[\w\-]*[^\W_])?\.)+[{_LOWER}{_UNCASED}]{{2,63}}"
    r"(?::\d{2,5})?(?:[/?#]\S*)?\Z"
)


@lru_cache(CACHED)
def cut_piece(piece: str) -> tuple[str, ...]:
    """The words of a text without white space; joined they are that text."""
    known = CUT.get(piece)
    if known is not None:
        return known
    if piece.isalpha() or len(piece) > LONGEST_PIECE:
        return (piece,)
    if piece[:-1].isalpha() and piece[:-1] not in CUT and _ends_plainly(piece):
        return (piece[:-1], piece[-1])
    lead = _PREFIXES.match(piece).end()  # type: ignore[union-attr]  # may match nothing
    core, tail = piece[lead:], []
    while core and core not in CUT and (suffix := _SUFFIX.search(core)):
        tail.append(suffix[0])
        core = core[: suffix.start()]
    return (*_PREFIX.findall(piece, 0, lead), *_cut_core(core), *reversed(tail))


def _ends_plainly(piece: str) -> bool:
    """Whether letters end with a mark that is surely a word, which spares most pieces the rules."""
    return piece[-1] in ",;:?!)" or (piece[-1] == "." and "a" <= piece[-2] <= "z")


def _cut_core(core: str) -> tuple[str, ...]:
    if core in CUT:
        return CUT[core]
    if core.isalnum() or _ADDRESS.match(core):
        return (core,) if core else ()
    return tuple(part for part in _INFIX.split(core) if part)


def split(texts: Sequence[str]) -> tuple[pa.Array, Numbers]:
    """What stands between white space in texts, end to end, and how much of it each text has."""
    stripped = pc.utf8_trim_whitespace(pa.array(texts, pa.large_string()))
    spoken = pc.not_equal(stripped, "")
    pieces = pc.utf8_split_whitespace(stripped.filter(spoken))
    counts = np.zeros(len(texts), np.int64)
    counts[spoken.to_numpy(zero_copy_only=False)] = pc.list_value_length(pieces)
    return pieces.flatten(), counts


class Vocabulary:
    """Numbers for the distinct words of some texts, in the order in which they were met."""

    def __init__(self) -> None:
        self._words: defaultdict[str, int] = defaultdict()
        self._words.default_factory = self._words.__len__  # each new word gets the next number
        self._arrays: dict[Callable[[str], float], NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self._words)

    def array(self, measure: Callable[[str], float], kind: type = np.int64) -> NDArray[Any]:
        """A value for each distinct word, of shape [words of the vocabulary]."""
        known = self._arrays.get(measure, np.zeros(0, kind))
        words = islice(self._words, len(known), None)
        self._arrays[measure] = np.append(known, np.fromiter(map(measure, words), kind))
        return self._arrays[measure]

    def number(self, word: str) -> int:
        """The number of a word, -1 if no text has it."""
        return self._words.get(word, -1)

    def read(self, texts: Sequence[str]) -> "Words":
        """The words of texts."""
        pieces, counts = split(texts)
        distinct = pieces.dictionary_encode()
        numbers = distinct.indices.to_numpy().astype(np.int64)
        cuts = [cut_piece(piece) for piece in distinct.dictionary.to_pylist()]
        sizes = np.fromiter(map(len, cuts), np.int64)
        words = np.fromiter(map(self._words.__getitem__, chain.from_iterable(cuts)), np.int64)
        codes = words[_spans((np.cumsum(sizes) - sizes)[numbers], sizes[numbers])]
        starts = np.append(0, np.cumsum(sizes[numbers]))
        return Words(self, codes, starts[np.append(0, np.cumsum(counts))], starts)


@dataclass(frozen=True)
class Words:
    """The words of some texts, end to end.

    Attributes:
        vocabulary: what the numbers stand for.
        codes: the number of each word, of shape [words].
        starts: where the words of each text start, and where the last ones end, of shape
            [texts + 1].
        pieces: where the words of each piece between white space start, and the last ones end, of
            shape [pieces + 1].
    """

    vocabulary: Vocabulary
    codes: Numbers
    starts: Numbers
    pieces: Numbers

    @cached_property
    def counts(self) -> Numbers:
        """How many words each text has, of shape [texts]."""
        return np.diff(self.starts)

    @cached_property
    def texts(self) -> Numbers:
        """The text that each word is in, of shape [words]."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def lengths(self) -> Numbers:
        """The characters of each word, of shape [words]."""
        lengths: Numbers = self.vocabulary.array(len)[self.codes]
        return lengths

    def are(self, kind: Callable[[str], bool]) -> Mask:
        """Which words are of a kind, of shape [words]."""
        found: Mask = self.vocabulary.array(kind, bool)[self.codes]
        return found

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """For each text the sum of its words' values, of shape [texts]."""
        return np.diff(np.append(0, np.cumsum(values))[self.starts])

    def take(self, rows: Numbers) -> "Words":
        """The words of some of the texts."""
        counts = self.counts[rows]
        words = _spans(self.starts[rows], counts)
        first = np.zeros(len(self.codes) + 1, bool)  # of a piece
        first[self.pieces] = True
        pieces = np.append(np.flatnonzero(first[words]), len(words))
        return Words(self.vocabulary, self.codes[words], np.append(0, np.cumsum(counts)), pieces)

    def lines(self, pieces: NDArray[np.int64]) -> "Words":
        """The same words as other texts, of which each has so many of the `pieces`."""
        return replace(self, starts=self.pieces[np.append(0, np.cumsum(pieces))])

    def sentences(self) -> Numbers:
        """How many sentences each text has, at least one, of shape [texts].

        As spaCy's "sentencizer" has it: one ends before the next word that is no punctuation.
        """
        terminal = self.are(TERMINALS.__contains__)
        other = ~terminal & ~self.are(_is_punctuation)
        ended = np.append(0, np.cumsum(terminal))
        at = np.flatnonzero(other)
        # Since the text's last word that is no punctuation, or since its start.
        since = np.maximum(np.append(0, at)[:-1], self.starts[self.texts[at]])
        breaks = np.bincount(self.texts[at[ended[at] > ended[since]]], minlength=len(self.counts))
        return 1 + breaks


def _is_punctuation(word: str) -> bool:
    marks = (unicodedata.category(character)[0] == "P" for character in word)
    return not word[0].isalnum() and all(marks)


def _spans(starts: Numbers, sizes: Numbers) -> Numbers:
    """The whole numbers of ranges, end to end."""
    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(sizes.sum())
