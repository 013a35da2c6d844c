"""What makes two documents duplicates: a key of each kind that a recipe names, as 64 bits.

A part's keys are kept beside its documents, so that they are worked out once, and so that another
corpus can be deduped against this one without reading its text.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters import minhash
from filters.looks import NONE, SCOPED, looks
from pipelines.config.steps import Dedupe, Near
from shards import schema

NO_KEY = minhash.NO_KEY  # of a document that has nothing to compare
NEAR = "near_duplicate"
NEAR_IMAGE = "near_duplicate_image"
SEMANTIC = "semantic_duplicate"

RECORD = pa.schema(
    [
        ("id", pa.string()),
        ("rank", pa.int64()),  # of duplicates the one with the smallest is kept
        ("keys", pa.list_(pa.uint64())),  # as many for every document, NO_KEY for what is not there
    ]
)

Keys = NDArray[np.uint64]


def reasons(options: Dedupe) -> list[str]:
    """The kinds of keys, in the order in which they give reasons."""
    found = {NEAR: options.near, NEAR_IMAGE: options.near_image, SEMANTIC: options.semantic}
    exact = [f"duplicate_{kind}" for kind in options.exact]
    return exact + [reason for reason, asked in found.items() if asked]


def kinds(options: Dedupe) -> NDArray[np.int8]:
    """Of each column of keys, which of the `reasons` it stands for."""
    bands = options.near.banding[0] if options.near else 0
    of_kinds = [bands if reason == NEAR else 1 for reason in reasons(options)]
    return np.repeat(np.arange(len(of_kinds), dtype=np.int8), of_kinds)


def records(documents: pa.Table, options: Dedupe, index: pa.Table | None = None) -> pa.Table:
    """A row of `RECORD` for every document; with an image store's index, also of `SCOPED`."""
    texts = schema.texts(documents)
    keys, seen = document_keys(documents, texts, options), None
    if index is not None:
        seen = _scoped(looks(first_images(documents, index)), documents, options.scope)
        keys = np.concatenate([keys, look_keys(seen)[:, None]], axis=1)
    if options.semantic:  # of equal pictures a part sends one
        same = exact_values(documents, texts, "image")
        equal = _hashed("meaning", scopes(documents, options.scope), same)[:, None]
        keys = np.concatenate([keys, equal], axis=1)
    offsets = np.arange(documents.num_rows + 1, dtype=np.int32) * keys.shape[1]
    lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(keys.reshape(-1)))
    columns = [documents["id"], pa.array(ranks(documents, texts)), lists]
    if seen is None:
        return pa.table(columns, schema=RECORD)
    return pa.table([*columns, *seen.columns], schema=pa.schema([*RECORD, *SCOPED]))


def _scoped(seen: pa.Table, documents: pa.Table, scope: str | None) -> pa.Table:
    within = salts(documents, scope) if scope else np.zeros(len(documents), np.uint64)
    return seen.append_column(SCOPED.field("scope"), pa.array(within))


def first_images(documents: pa.Table, index: pa.Table) -> pa.Table:
    """The row of the index of each document's first picture, of nulls for one without."""
    urls = [
        next((part["url"] for part in parts if part["image"]), None)
        for parts in documents["parts"].to_pylist()
    ]
    known = pc.index_in(pa.array(urls, pa.string()), index["url"].combine_chunks())
    return index.take(known)


def look_keys(seen: pa.Table) -> Keys:
    """A key of each row of `SCOPED`, equal for those that are the same throughout."""
    rows = zip(*(seen[name].to_pylist() for name in SCOPED.names), strict=True)
    keys = [int(schema.digest("look", repr(row))[:16], 16) or 1 for row in rows]
    there = np.asarray(seen["phash"]) != NONE
    return np.where(there, np.array(keys, np.uint64), np.uint64(NO_KEY))


def ranks(documents: pa.Table, texts: list[str]) -> NDArray[np.int64]:
    """Smaller is better: by a score in millionths, 0 without one, then by length.

    The score is that of quality, or else the similarity of the document's best picture to its
    text.
    """
    quality = [dict(row or []).get("quality") for row in documents["scores"].to_pylist()]
    scores = [
        fit if score is None else score for score, fit in zip(quality, fits(documents), strict=True)
    ]
    merit = np.rint(np.clip(np.array(scores, float), -1000, 1000) * 1e6).astype(np.int64)
    lengths = np.array([len(text) for text in texts], np.int64)
    ranks: NDArray[np.int64] = -(merit * (1 << 32) + lengths)
    return ranks


def fits(documents: pa.Table) -> list[float]:
    """The largest score of each document's pictures, 0 where none is scored."""
    return [
        max((part["score"] for part in parts if part["score"] is not None), default=0.0)
        for parts in documents["parts"].to_pylist()
    ]


def matrix(table: pa.Table) -> Keys:
    """The keys of records, of shape [records, kinds of keys]."""
    lists = table["keys"].combine_chunks()
    values = np.asarray(lists.flatten(), np.uint64)
    return values.reshape(table.num_rows, len(values) // max(1, table.num_rows))


def document_keys(documents: pa.Table, texts: list[str], options: Dedupe) -> Keys:
    """Every key of every document, of shape [documents, kinds of keys]; `NO_KEY` for none."""
    within = scopes(documents, options.scope)
    columns = [
        _hashed(kind, within, exact_values(documents, texts, kind))[:, None]
        for kind in options.exact
    ]
    if options.near:
        columns.append(_banded(documents, texts, options.near, options.scope))
    return np.concatenate([np.zeros((len(texts), 0), np.uint64), *columns], axis=1)


def scopes(documents: pa.Table, scope: str | None) -> list[str]:
    """What documents have to have in common to be compared at all."""
    if scope is None:
        return [""] * documents.num_rows
    if scope == "host":
        return [urlsplit(url or "").hostname or "" for url in documents["url"].to_pylist()]
    return [value or "" for value in documents[scope].to_pylist()]


def salts(documents: pa.Table, scope: str) -> Keys:
    """A hash of each document's scope, to be mixed into its keys."""
    found = scopes(documents, scope)
    known = {each: int(schema.digest("scope", each)[:16], 16) for each in set(found)}
    return np.array([known[each] for each in found], np.uint64)


def exact_values(documents: pa.Table, texts: list[str], kind: str) -> Sequence[str | None]:
    """What of each document has to be equal, null where it has nothing to compare."""
    if kind == "url":
        return [url or None for url in documents["url"].to_pylist()]
    images = [
        [part["image"] for part in parts if part["image"]]
        for parts in documents["parts"].to_pylist()
    ]
    if kind == "image":
        return [shown[0] if shown else None for shown in images]
    keys = minhash.content_keys(texts)
    return [
        schema.digest(key, *shown) if text.strip() or shown else None
        for text, key, shown in zip(texts, keys, images, strict=True)
    ]


def _hashed(kind: str, within: Sequence[str], values: Sequence[str | None]) -> Keys:
    """64 bits of each value: of a billion documents, about one in forty runs would confuse two."""
    keys = [
        NO_KEY if value is None else int(schema.digest(kind, scope, value)[:16], 16) or 1
        for scope, value in zip(within, values, strict=True)
    ]
    return np.array(keys, np.uint64)


def _banded(documents: pa.Table, texts: list[str], near: Near, scope: str | None) -> Keys:
    bands, rows = near.banding
    keys = minhash.band_keys(texts, ngram=near.ngram, bands=bands, rows=rows, seed=near.seed)
    if scope is None:
        return keys
    within = salts(documents, scope)
    return np.where(keys == NO_KEY, keys, np.maximum(keys ^ within[:, None], 1))
