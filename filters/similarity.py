"""How well the pictures of a document fit the words around them.

A caption is compared whole. In a page each picture is compared with its alt text and with the
sentences next to it, and the best fit counts: mmc4 (Zhu et al. 2023, section 3) drops a picture
when no sentence reaches 0.15.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters.clip import ClipModel, embed_texts
from shards import schema

NEARBY = 3  # sentences on each side of a picture
SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")


def _sentences(text: str) -> list[str]:
    return [s for s in (piece.strip() for piece in SENTENCE.split(text)) if s]


def candidates(parts: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The texts that each image part of a document is compared with, in document order."""
    texts = [_sentences(p["text"]) if p["text"] is not None else None for p in parts]
    if sum(t is None for t in texts) == 1 and len(parts) <= 2:
        return [[" ".join(s for t in texts if t for s in t)]]
    found = []
    for i, part in enumerate(parts):
        if texts[i] is None:
            before = [s for t in texts[:i] if t for s in t][-NEARBY:]
            after = [s for t in texts[i + 1 :] if t for s in t][:NEARBY]
            found.append([s for s in (part["alt"], *before, *after) if s] or [""])
    return found


def best_fits(
    documents: pa.Table, pictures: NDArray[np.float32], clip: ClipModel
) -> NDArray[np.float64]:
    """For each image part, in order, the cosine of the best fitting text near it, to 4 decimals.

    Shape: `pictures` are the embeddings of every image part of `documents`, [parts, d].
    """
    near = [texts for parts in documents["parts"].to_pylist() for texts in candidates(parts)]
    if not near:
        return np.empty(0)
    number: dict[str, int] = {}  # of each different text: neighbours share their sentences
    texts = [number.setdefault(text, len(number)) for texts in near for text in texts]
    words = embed_texts(clip, list(number))[texts]
    owner = np.repeat(np.arange(len(near)), [len(texts) for texts in near])
    cosines = np.einsum("nd,nd->n", pictures[owner], words)
    best = np.full(len(near), -1.0)
    np.maximum.at(best, owner, cosines)
    return np.round(best, 4)


def best_pictures(documents: pa.Table, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each document the score of its best image; NaN where it has none.

    Shape: `scores` are those of every image part of `documents`, end to end.
    """
    parents, parts = schema.flatten_parts(documents)
    owner = np.asarray(parents)[np.asarray(parts.field("text").is_null())]
    best = np.full(documents.num_rows, np.nan)
    np.fmax.at(best, owner, scores)
    return best
