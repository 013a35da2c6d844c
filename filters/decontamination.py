"""Which documents hold text of an evaluation set: word n-grams in common with its items.

Brown et al. 2020 (GPT-3, arXiv 2005.14165), appendix C: a gram is a lower-case word between white
space without its punctuation, and a document is contaminated by a run of 13 of them that an
evaluation item has too. An item shorter than that has no such run and was not looked for when
GPT-3's data was filtered. The paper's analysis of overlaps goes down to runs of 8 for data sets of
short items, and no further, because shorter ones collide by chance; here each item of 8 to 12
words is looked for as a whole, and shorter ones are not.

The n-grams of all evaluation sets are a sorted array of 64-bit hashes, bounded by the size of the
sets. What it finds is compared word by word, so that no document is lost to a hash.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters.rules import Rule, above

Hashes = NDArray[np.uint64]
Places = NDArray[np.int64]

# Polynomial hashes modulo 2**64 in an odd base, which therefore has an inverse.
BASE = 0x9E3779B97F4A7C15
INVERSE = pow(BASE, -1, 1 << 64)
SLICE = 1 << 20  # characters that are hashed at once, whole documents of them
KEPT, SPACE, REMOVED = range(3)
# Of the table that tells most absent hashes from the few present: places a hash, and at most.
ROOM, MOST_BITS = 8, 28

ITEM = pa.schema([("set", pa.string()), ("words", pa.string())])
NGRAM = pa.schema(
    [("n", pa.int32()), ("hash", pa.uint64()), ("item", pa.int32()), ("at", pa.int64())]
)


# An n-gram of an item that a document has: the document's row in its batch, the word at which the
# n-gram begins, and the n-gram's row in the index.
HIT = pa.schema([("row", pa.int32()), ("word", pa.int64()), ("ngram", pa.int32())])


@dataclass(frozen=True)
class Overlap:
    """The words that a document has in common with evaluation sets.

    Attributes:
        row: the document's place in the batch.
        set: the evaluation set of the first n-gram in common.
        ngram: its words.
        ngrams: how many different n-grams are in common.
    """

    row: int
    set: str
    ngram: str
    ngrams: int


@cache
def _kinds() -> NDArray[np.uint8]:
    """For each code point whether it is part of a word, white space, or taken out."""
    kinds = np.full(0x110000, KEPT, np.uint8)
    for code in range(0x110000):
        if unicodedata.category(chr(code))[0] in "PSC":
            kinds[code] = REMOVED
        if chr(code).isspace():
            kinds[code] = SPACE
    return kinds


@dataclass(frozen=True)
class Words:
    """The words of some texts, end to end, each followed by one blank.

    Attributes:
        codes: uint32 code points.
        starts: where each word begins.
        ends: where each word ends, before the blank.
        owner: the text that each word is of.
        count: how many texts there are.
    """

    codes: NDArray[np.uint32]
    starts: Places
    ends: Places
    owner: Places
    count: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Words":
        """Lower-case words between white space, without punctuation, symbols and controls."""
        # Folded one by one, because a letter may become two.
        small = [text.lower() for text in texts]
        joined = "\n".join([*small, ""]).encode("utf-32-le", "surrogatepass")
        codes = np.frombuffer(joined, np.uint32)
        places = np.flatnonzero(_kinds()[codes] != REMOVED)
        blank = _kinds()[codes[places]] == SPACE
        after_word = np.append(False, ~blank[:-1])
        kept = ~blank | after_word
        places, blank = places[kept], blank[kept]
        ends = np.flatnonzero(blank)
        starts = np.append(0, ends[:-1] + 1) if len(ends) else ends
        lengths = np.fromiter((len(text) + 1 for text in small), np.int64, len(small))
        counts = np.diff(np.searchsorted(places[ends], np.append(0, np.cumsum(lengths))))
        owner = np.repeat(np.arange(len(small)), counts)
        codes = np.where(blank, np.uint32(32), codes[places])
        return cls(codes, starts, ends, owner, len(small))

    def text(self, first: int, n: int) -> str:
        """`n` words from the word `first` on."""
        if n == 0:
            return ""
        codes = self.codes[self.starts[first] : self.ends[first + n - 1]]
        return codes.tobytes().decode("utf-32-le")

    def texts(self) -> list[str]:
        """The words of each text."""
        numbers = np.searchsorted(self.owner, np.arange(self.count + 1)).tolist()
        return [self.text(first, end - first) for first, end in pairwise(numbers)]

    @cached_property
    def _sums(self) -> tuple[Hashes, Hashes]:
        """Prefix sums of the hash, and the factor that moves each word's hash to the front."""
        powers = np.cumprod(np.full(len(self.codes), BASE, np.uint64), dtype=np.uint64)
        sums = np.cumsum((self.codes.astype(np.uint64) + np.uint64(1)) * powers)
        back = np.cumprod(np.full(len(self.codes), INVERSE, np.uint64), dtype=np.uint64)
        return np.append(np.zeros(1, np.uint64), sums), back[self.starts]

    def ngrams(self, n: int) -> tuple[Places, Hashes]:
        """The words at which n words of one text begin, and the hash of each such run."""
        if len(self.starts) < n:
            return np.empty(0, np.int64), np.empty(0, np.uint64)
        sums, back = self._sums
        last = len(self.starts) - n + 1
        hashes = (sums[self.ends[n - 1 :]] - sums[self.starts[:last]]) * back[:last]
        first = np.flatnonzero(self.owner[:last] == self.owner[n - 1 :])
        return first, hashes[first]


def _slices(texts: Iterable[str]) -> Iterator[tuple[int, Words]]:
    """The words of texts, some texts at a time, with the number of the first."""
    first, waiting, length = 0, [], 0
    for text in texts:
        waiting.append(text)
        length += len(text)
        if length > SLICE:
            yield first, Words.of(waiting)
            first, waiting, length = first + len(waiting), [], 0
    if waiting:
        yield first, Words.of(waiting)


@dataclass(frozen=True)
class Grams:
    """The n-grams of evaluation items for one n: distinct hashes, ascending.

    `items` and `at` say in which item each is, and where in its words, counted in characters;
    `first` is the row of the first in the index.
    """

    n: int
    first: int
    hashes: Hashes
    items: NDArray[np.int32]
    at: Places

    @cached_property
    def _bits(self) -> int:
        return min(max((len(self.hashes) * ROOM).bit_length(), 8), MOST_BITS)

    @cached_property
    def _begun(self) -> NDArray[np.bool_]:
        """Whether any hash begins with these bits."""
        table = np.zeros(1 << self._bits, bool)
        table[self.hashes >> np.uint64(64 - self._bits)] = True
        return table

    def find(self, hashes: Hashes) -> tuple[Places, Places]:
        """Which of `hashes` are here, and where."""
        likely = np.flatnonzero(self._begun[hashes >> np.uint64(64 - self._bits)])
        where = np.searchsorted(self.hashes, hashes[likely])
        same = self.hashes[np.minimum(where, len(self.hashes) - 1)] == hashes[likely]
        return likely[same], where[same]


@dataclass(frozen=True)
class Index:
    """What documents are compared with.

    Attributes:
        items: a table of `ITEM`, the words of every evaluation item.
        ngrams: a table of `NGRAM` in order, each n-gram with the first item that has it.
    """

    items: pa.Table
    ngrams: pa.Table

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]], ngram: int, shortest: int) -> "Index":
        """The index of items, each the name of its set and its text.

        Items are looked for by their runs of `ngram` words; those that have fewer words, but at
        least `shortest`, as a whole.
        """
        named = list(texts)
        words: list[str] = []
        tables = [NGRAM.empty_table()]
        for first, found in _slices(text for _, text in named):
            words += found.texts()
            tables += _item_ngrams(found, first, ngram, shortest)
        every = pa.concat_tables(tables).sort_by([(name, "ascending") for name in NGRAM.names])
        keys = [np.asarray(every[name]) for name in ("n", "hash")]
        new = np.append(True, np.logical_or(*(key[1:] != key[:-1] for key in keys)))
        sets = pa.array([name for name, _ in named], pa.string())
        items = pa.table([sets, pa.array(words, pa.string())], schema=ITEM)
        return cls(items, every.filter(pa.array(new[: every.num_rows])))

    @cached_property
    def grams(self) -> tuple[Grams, ...]:
        """The n-grams by n."""
        n, *columns = (c.combine_chunks().to_numpy() for c in self.ngrams.itercolumns())
        sizes, starts = np.unique(n, return_index=True)
        ends = np.append(starts, len(n))[1:]
        return tuple(
            Grams(int(size), int(start), *(column[start:end] for column in columns))
            for size, start, end in zip(sizes, starts, ends, strict=True)
        )

    def ngram(self, row: int) -> tuple[str, str]:
        """The set and the words of an n-gram."""
        gram = self.ngrams.slice(row, 1).to_pylist()[0]
        item = self.items.slice(gram["item"], 1).to_pylist()[0]
        return item["set"], " ".join(item["words"][gram["at"] :].split(" ", gram["n"])[: gram["n"]])


def _item_ngrams(words: Words, first: int, ngram: int, shortest: int) -> Iterator[pa.Table]:
    """The n-grams of items, the first of which is the item `first`."""
    lengths = np.bincount(words.owner, minlength=words.count)
    begins = words.starts[np.searchsorted(words.owner, words.owner)]
    for n in range(min(shortest, ngram), ngram + 1):
        starts, hashes = words.ngrams(n)
        owner = words.owner[starts]
        wanted = (lengths[owner] == n) | (n == ngram)
        at = words.starts[starts] - begins[starts]
        columns = [np.full(len(owner), n), hashes, owner + first, at]
        yield pa.table([column[wanted] for column in columns], NGRAM.names).cast(NGRAM)


def find(texts: Sequence[str], index: Index) -> pa.Table:
    """A row of `HIT` for every different n-gram of an item that a document has, as they come."""
    tables = [
        _hits(words, first, grams, index.items)
        for first, words in _slices(texts)
        for grams in index.grams
    ]
    hits = pa.concat_tables([HIT.empty_table(), *tables])
    hits = hits.sort_by([(name, "ascending") for name in HIT.names])
    pairs = np.asarray(hits["row"], np.int64) * index.ngrams.num_rows + np.asarray(hits["ngram"])
    return hits.take(pa.array(np.sort(np.unique(pairs, return_index=True)[1])))


def _hits(words: Words, first: int, grams: Grams, items: pa.Table) -> pa.Table:
    starts, hashes = words.ngrams(grams.n)
    found, where = grams.find(hashes)
    starts = starts[found]
    texts: dict[int, str] = {}
    same = np.zeros(len(starts), bool)
    for i, (start, place) in enumerate(zip(starts.tolist(), where.tolist(), strict=True)):
        item = int(grams.items[place])
        if item not in texts:
            texts[item] = items["words"][item].as_py() + " "
        same[i] = texts[item].startswith(f"{words.text(start, grams.n)} ", grams.at[place])
    owner = words.owner[starts]
    columns = [owner + first, starts - np.searchsorted(words.owner, owner), where + grams.first]
    return pa.table([column[same] for column in columns], HIT.names).cast(HIT)


def overlaps(hits: pa.Table, index: Index) -> list[Overlap]:
    """What each document that has a hit has in common with evaluation items, by row."""
    rows, starts, counts = np.unique(np.asarray(hits["row"]), return_index=True, return_counts=True)
    found = []
    for row, start, count in zip(rows.tolist(), starts.tolist(), counts.tolist(), strict=True):
        name, ngram = index.ngram(hits["ngram"][start].as_py())
        found.append(Overlap(row, name, ngram, count))
    return found


def contaminated(found: Sequence[Overlap], records: int, *, max: int | None = 0) -> Rule:
    """Keeps those of `records` documents that have at most `max` different n-grams in common."""
    ngrams = np.zeros(records)
    for overlap in found:
        ngrams[overlap.row] = overlap.ngrams
    return above("contaminated", ngrams, max)
