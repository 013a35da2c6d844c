"""fastText's classifiers (Joulin et al. 2016, arXiv 1607.01759), applied to a batch at once.

A text is the mean of the vectors of its words and of the character n-grams in them, so that each
distinct word of a batch is looked up once. The file is read as fastText 0.9 writes it; labels and
scores are those of its `predict`, but for the rounding of sums: a no-break space is a letter too.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from filters.words import Numbers, numbered, split

MAGIC, VERSION = 793712314, 12
HIERARCHICAL_SOFTMAX = 1
LABEL = "__label__"
END = b"</s>"  # what fastText reads at the end of every text
OFFSET, PRIME = np.uint32(2166136261), np.uint32(16777619)  # FNV-1a
CENTROIDS = 256  # of each quantised block

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Classifier:
    """A classifier in memory.

    Attributes:
        labels: without fastText's prefix.
        words: the row of each word that has one.
        grams: the row of each n-gram by its hash, -1 where it has none, of shape [buckets].
        lengths: the least and the largest number of characters of an n-gram.
        rows: the vectors, of shape [rows, dimensions].
        nodes: those of the inner nodes of the label tree, of shape [labels - 1, dimensions].
        lefts: whether the path to a label turns left at a node, of shape [labels - 1, labels].
        rights: whether it turns right there.
    """

    labels: list[str]
    words: dict[bytes, int]
    grams: Numbers
    lengths: tuple[int, int]
    rows: Floats
    nodes: Floats
    lefts: NDArray[np.float64]
    rights: NDArray[np.float64]

    def predict(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """How probable each label is for each text, of shape [texts, labels]."""
        pieces, sizes = split(texts, only_ascii=True)
        distinct, numbers = numbered(pieces)
        sums, counts = self._vectors([END, *(piece.encode() for piece in distinct)])
        means = np.zeros((len(texts), sums.shape[1]))
        for i, (end, size) in enumerate(zip(np.cumsum(sizes), sizes, strict=True)):
            row = numbers[end - size : end] + 1
            means[i] = (sums[row].sum(0) + sums[0]) / max(1, counts[row].sum() + counts[0])
        right = 1 / (1 + np.exp(-means @ self.nodes.T))
        logarithms = np.log(1 - right + 1e-5) @ self.lefts + np.log(right + 1e-5) @ self.rights
        return np.asarray(np.exp(logarithms))

    def _vectors(self, words: list[bytes]) -> tuple[NDArray[np.float64], Numbers]:
        """For each word the sum of its vectors, and of how many."""
        own = np.fromiter((self.words.get(word, -1) for word in words), np.int64)
        found = [(np.flatnonzero(own >= 0), own[own >= 0]), *self._grams(words[1:])]
        sums, counts = np.zeros((len(words), self.rows.shape[1])), np.zeros(len(words), np.int64)
        for owners, rows in found:
            if len(owners):
                starts = np.flatnonzero(np.diff(owners, prepend=-1))
                sums[owners[starts]] += np.add.reduceat(self.rows[rows], starts, dtype=np.float64)
                counts += np.bincount(owners, minlength=len(words))
        return sums, counts

    def _grams(self, words: list[bytes]) -> Iterator[tuple[Numbers, Numbers]]:
        """By n: which words have n-grams that have a row, ascending, and these rows."""
        text = np.frombuffer(b"".join(b"<%b>" % word for word in words), np.int8)
        sizes = np.fromiter(map(len, words), np.int64) + 2
        starts = np.append(np.flatnonzero(text >= -64), len(text))  # of characters
        owners = np.repeat(np.arange(len(words)), sizes)[starts[:-1]]
        hashes = np.full(len(owners), OFFSET)
        for n in range(1, self.lengths[1] + 1):
            count = max(0, len(owners) - n + 1)
            hashes = _extended(hashes[:count], text, starts[n - 1 :])
            inside = owners[:count] == owners[n - 1 :]
            rows = self.grams[hashes % len(self.grams)]
            if n >= self.lengths[0]:
                known = inside & (rows >= 0)
                yield owners[:count][known] + 1, rows[known]


def _extended(hashes: NDArray[np.uint32], text: NDArray[np.int8], starts: Numbers) -> NDArray[Any]:
    """Hashes with the bytes of one more character, those from its start to the next one's."""
    hashes, sizes = hashes.copy(), np.diff(starts)
    for i in range(4):  # bytes of a character in UTF-8
        longer = np.flatnonzero(sizes > i) if i else slice(None)
        # fastText's bytes have a sign.
        byte = text[starts[:-1][longer] + i].astype(np.int32).view(np.uint32)
        hashes[longer] = (hashes[longer] ^ byte) * PRIME
    return hashes


def load(path: Path) -> Classifier:
    """Read a classifier from fastText's file.

    Raises:
        ValueError: it is no such file, or its loss is not the hierarchical softmax, or it reads
            runs of words.
    """
    file = BytesIO(path.read_bytes())
    if file.getbuffer()[:8] != struct.pack("<2i", MAGIC, VERSION):
        raise ValueError(f"{path} is no file of a fastText model")
    _, _, *arguments, _ = _read(file, "<2i12id")
    _, _, _, _, _, word_grams, loss, _, buckets, least, largest, _ = arguments
    if word_grams != 1 or loss != HIERARCHICAL_SOFTMAX:
        raise ValueError(f"{path}: only single words and the hierarchical softmax are read")
    words, labels, kept = _dictionary(file)
    rows, nodes = _matrix(file), _matrix(file)
    grams = np.full(buckets, -1)
    grams[kept[:, 0]] = kept[:, 1] + len(words)
    lefts, rights = _paths(list(labels.values()))
    return Classifier(
        [label.decode().removeprefix(LABEL) for label in labels],
        {word: i for i, word in enumerate(words)},
        grams,
        (least, largest),
        rows,
        nodes[: len(labels) - 1],
        lefts,
        rights,
    )


def _read(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, file.read(struct.calcsize(form)))


def _array(file: BinaryIO, kind: type, size: int) -> NDArray[Any]:
    return np.frombuffer(file.read(size * np.dtype(kind).itemsize), kind)


def _dictionary(file: BinaryIO) -> tuple[list[bytes], dict[bytes, int], Numbers]:
    """The words, the labels with their counts, and pairs of an n-gram's hash and its place."""
    entries, _, _, _, kept = _read(file, "<3i2q")
    words, labels = [], {}
    for _ in range(entries):
        word = b"".join(iter(lambda: file.read(1), b"\0"))
        count, is_label = _read(file, "<qb")
        if is_label:
            labels[word] = count
        else:
            words.append(word)
    return words, labels, _array(file, np.int32, 2 * kept).reshape(-1, 2).astype(np.int64)


def _matrix(file: BinaryIO) -> Floats:
    """A matrix, as it is or in quantised blocks of its rows."""
    (quantised,) = _read(file, "<?")
    if not quantised:
        rows, columns = _read(file, "<2q")
        return _array(file, np.float32, rows * columns).reshape(rows, columns)
    has_norms, rows, _, size = _read(file, "<?2qi")
    codes = _array(file, np.uint8, size).reshape(rows, -1)
    vectors = _decoded(file, codes)
    if not has_norms:
        return vectors
    norms = _array(file, np.uint8, rows).reshape(rows, 1)
    return vectors * _decoded(file, norms)


def _decoded(file: BinaryIO, codes: NDArray[np.uint8]) -> Floats:
    """The rows that codes stand for: of each block of columns the centroid of that number."""
    columns, blocks, width, last = _read(file, "<4i")
    centroids = _array(file, np.float32, columns * CENTROIDS)
    found = []
    for block in range(blocks):
        size = last if block == blocks - 1 else width
        table = centroids[block * CENTROIDS * width :][: CENTROIDS * size].reshape(-1, size)
        found.append(table[codes[:, block]])
    return np.concatenate(found, axis=1)


def _paths(counts: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the path to each label turns left and right in the Huffman tree of their counts.

    `counts` descend, as fastText sorts labels. Its inner nodes are numbered as they are made.
    """
    leaves = len(counts)
    lefts, rights = np.zeros((2, leaves - 1, leaves))
    below = [{leaf} for leaf in range(leaves)]
    totals = list(counts)
    leaf, node = leaves - 1, leaves
    for made in range(leaves - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and (node >= len(totals) or totals[leaf] < totals[node]):
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        for turns, child in zip((lefts, rights), pair, strict=True):
            turns[made, list(below[child])] = 1
        below.append(below[pair[0]] | below[pair[1]])
        totals.append(totals[pair[0]] + totals[pair[1]])
    return lefts, rights
