"""What a corpus has too often: pictures that are on many pages, captions that many pictures have.

Of each picture or caption a part sends one row to the partition of its hash: how often the part has
it, and the smallest names of what has it, no more of them than decide. So a key that is everywhere
costs a shuffle no more than one that every part has once, and no verdict depends on the parts.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters import minhash
from pipelines.config.steps import Copies
from pipelines.duplicates.alike import names as hashed
from pipelines.duplicates.keys import Keys
from pipelines.duplicates.near import firsts
from pipelines.images import drop_images
from pipelines.stage import (
    Part,
    Pieces,
    Place,
    Stage,
    by_part,
    partitions,
    scatter,
    write_documents,
)
from shards import ledger, schema

TALLY = pa.schema(
    [
        ("key", pa.uint64()),
        ("times", pa.int64()),  # that the part has it
        ("names", pa.list_(pa.uint64())),  # the smallest hashes of what has it, sorted
        ("part", pa.int32()),
    ]
)
FREQUENT = pa.schema(
    [
        ("key", pa.uint64()),
        ("times", pa.int64()),  # that the corpus has it
        ("names", pa.int32()),  # how many there are, counted no further than decides
        ("first", pa.int32()),  # how many of the part's own are among the first of the corpus
        ("part", pa.int32()),
    ]
)

TOO_FREQUENT = "image_too_frequent"
PLACEHOLDER = "image_placeholder"
REPEATED = "image_repeated"
CAPTION = "caption_too_frequent"

Group = tuple[int, Iterable[pa.Table]]
Named = tuple[Keys, Keys, NDArray[np.int64]]  # a key, a name and how often they go together


def copies_stage(name: str, source: Stage, options: Copies) -> Stage:
    """Take out pictures that the corpus shows too often, or documents of a caption beyond some.

    A picture that more than `most` places show goes from all of them, be it known by its URL or by
    its bytes, and one that a page repeats from all of the page's places but the first (MM1,
    appendix A.1, by URL or MD5; OBELICS, section 3, by URL). Bytes that are found at more than
    `most` URLs have a reason of their own: they stand for pictures that are not there.
    """
    return Stage(
        name,
        partial(_drop_copies, options=options),
        options.model_dump(),
        (
            "pipelines.duplicates.copies",
            "pipelines.images",
            "pipelines.duplicates.near",
            "pipelines.duplicates.alike",
        ),
        inputs=(source.name,),
    )


def _drop_copies(parts: Any, place: Place, options: Copies) -> Any:
    found = (
        parts
        | "tally" >> beam.FlatMap(_send, place, options)
        | "by key" >> beam.GroupByKey()
        | "frequent" >> beam.FlatMap(_frequent, place, options.most)
    )
    return by_part(parts, found, FREQUENT) | "write" >> beam.Map(_write, place, options)


def _send(part: int, place: Place, options: Copies) -> Pieces:
    with place.clock():
        named = NAMED[options.of](place.read(part))
        table = tally(*named, part, options.most)
        targets = np.asarray(table["key"]) % np.uint64(partitions(place))
        return place.sent(scatter(table, targets.astype(np.int64)))


def _frequent(group: Group, place: Place, most: int) -> Pieces:
    with place.clock():
        table = frequent(pa.concat_tables(group[1]).combine_chunks(), most)
        return place.sent(scatter(table, table["part"]))


def _write(group: Group, place: Place, options: Copies) -> int:
    part, tables = group
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            result = DROP[options.of](documents, pa.concat_tables(tables), options.most)
            write_documents(place, part, documents, result, images=options.of == "image")
    return part


# Counting


def tally(key: Keys, name: Keys, times: NDArray[np.int64], part: int, most: int) -> pa.Table:
    """A row of `TALLY` for each key: `most` names and one more are enough to decide."""
    order = np.lexsort((name, key))
    key, name, times = key[order], name[order], times[order]
    first = firsts(key)
    heads = np.flatnonzero(first == np.arange(len(key)))
    held = np.arange(len(key)) - first <= most
    _, kind = np.unique(first, return_inverse=True)
    sums = np.bincount(kind, times).astype(np.int64)
    offsets = pa.array(np.append(0, np.bincount(kind, held).cumsum()), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pa.array(name[held], pa.uint64()))
    columns = [key[heads], sums, lists, np.full(len(heads), part)]
    return pa.table(columns, TALLY.names).cast(TALLY)


def frequent(rows: pa.Table, most: int) -> pa.Table:
    """The rows of `TALLY` of keys that all parts together have more than `most` times."""
    key = np.asarray(rows["key"])
    lists = rows["names"].combine_chunks()
    owner = np.asarray(lists.value_parent_indices())
    name, part = np.asarray(lists.flatten()), np.asarray(rows["part"])
    order = np.lexsort((part[owner], name, key[owner]))
    owner, name = owner[order], name[order]
    first = firsts(key[owner])
    _, kind = np.unique(key, return_inverse=True)
    new = np.append(True, (name[1:] != name[:-1]) | (first[1:] != first[:-1]))[: len(name)]
    among = np.arange(len(owner)) - first < most
    columns = [
        key,
        np.bincount(kind, np.asarray(rows["times"]))[kind],
        np.bincount(kind[owner], new, len(kind))[kind],
        np.bincount(owner, among, len(key)),
        part,
    ]
    table = pa.table(columns, FREQUENT.names).cast(FREQUENT)
    return table.filter(pa.array(np.asarray(table["times"]) > most))


# Pictures


def shown(documents: pa.Table) -> Named:
    """Pictures by their bytes, named by the URLs that these are at; and by their URLs."""
    _, parts = schema.flatten_parts(documents)
    urls, images = url_keys(parts), image_keys(parts)
    there = (urls != minhash.NO_KEY) & (images != minhash.NO_KEY)
    pairs = np.stack([images[there], urls[there]])
    both, times = np.unique(pairs, axis=1, return_counts=True)
    known, often = np.unique(urls[urls != minhash.NO_KEY], return_counts=True)
    return (
        np.concatenate([both[0], known]),
        np.concatenate([both[1], known]),
        np.concatenate([times, often]),
    )


def url_keys(parts: pa.StructArray) -> Keys:
    """A hash of the URL of each part, `NO_KEY` for texts."""
    return _hashed("url", parts.field("url"))


def image_keys(parts: pa.StructArray) -> Keys:
    """A hash of the bytes of the picture of each part, `NO_KEY` without one."""
    return _hashed("image", parts.field("image"))


def _hashed(kind: str, values: pa.Array) -> Keys:
    """64 bits of each value, worked out once for equal ones."""
    codes = values.dictionary_encode()
    known = [int(schema.digest(kind, each)[:16], 16) or 1 for each in codes.dictionary.to_pylist()]
    found: Keys = np.array([*known, minhash.NO_KEY], np.uint64)
    at: NDArray[np.int32] = np.asarray(codes.indices.fill_null(len(known)))
    return found[at]


def drop_shown(documents: pa.Table, often: pa.Table, most: int) -> Part:
    """Take out pictures that are shown too often, and those that a page repeats."""
    owners, parts = schema.flatten_parts(documents)
    keys = np.stack([image_keys(parts), url_keys(parts)], axis=1)
    counts = {row["key"]: row for row in often.to_pylist()}
    seen: set[tuple[int, int]] = set()
    reasons, details = np.full((2, len(parts)), None, object)
    for at, (owner, *mine) in enumerate(zip(owners.to_pylist(), *keys.T.tolist(), strict=True)):
        there = [key for key in mine if key != minhash.NO_KEY]
        found = next((counts[key] for key in there if key in counts), None)
        if found:
            reasons[at], details[at] = _why(found, most)
        elif any((owner, key) in seen for key in there):
            reasons[at] = REPEATED
        seen.update((owner, key) for key in there)
    return drop_images(documents, reasons.tolist(), details.tolist())


def _why(found: dict[str, Any], most: int) -> tuple[str, str]:
    if found["names"] > most:
        return PLACEHOLDER, f"shown {found['times']} times, at more than {most} URLs"
    return TOO_FREQUENT, f"shown {found['times']} times"


# Captions


def captioned(documents: pa.Table) -> Named:
    """Documents by their captions, which may differ in case, punctuation and space."""
    keys = caption_keys(documents)
    there = keys != minhash.NO_KEY
    return keys[there], hashed(documents["id"])[there], np.ones(int(there.sum()), np.int64)


def caption_keys(documents: pa.Table) -> Keys:
    """A hash of the words of each document, `NO_KEY` where it has no text."""
    texts = schema.texts(documents)
    digests = minhash.content_keys(texts)
    found = [
        int(digest[:16], 16) or 1 if text.strip() else minhash.NO_KEY
        for text, digest in zip(texts, digests, strict=True)
    ]
    return np.array(found, np.uint64)


def drop_captioned(documents: pa.Table, often: pa.Table, most: int) -> Part:
    """Keep of each caption the documents whose hashed ids are the first of the corpus."""
    key, name = caption_keys(documents), hashed(documents["id"])
    counts = {row["key"]: row for row in often.to_pylist()}
    order = np.lexsort((np.arange(len(key)), name, key))
    rank = np.arange(len(key)) - firsts(key[order])
    reasons, details = np.full((2, len(key)), None, object)
    for at, mine, before in zip(order, key[order].tolist(), rank, strict=True):
        if (found := counts.get(mine)) and before >= found["first"]:
            reasons[at], details[at] = CAPTION, f"{found['times']} documents have it"
    kept = pa.array([reason is None for reason in reasons], pa.bool_())
    drops = ledger.drop_rows(documents, reasons.tolist(), details=details.tolist())
    return documents.filter(kept), drops


NAMED: dict[str, Callable[[pa.Table], Named]] = {"image": shown, "caption": captioned}
DROP: dict[str, Callable[[pa.Table, pa.Table, int], Part]] = {
    "image": drop_shown,
    "caption": drop_captioned,
}
