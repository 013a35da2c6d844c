"""Where a record is, or which rule dropped it: the ledger read for one document or URL."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from shards import ledger, schema, storage
from shards.storage import Location, in_parallel, read_json, read_table
from shards.tar import MANIFEST

INDEX_COLUMNS = ["position", "documents"]

Stages = Mapping[str, Location]  # the finished ones, by name
Part = tuple[str, Location]  # a stage's name and one of its files


@dataclass(frozen=True)
class Answer:
    """One thing that happened to a record."""

    stage: str
    id: str
    url: str | None
    outcome: str  # "dropped", "error", "reported", "read", "in the shards"
    reason: str | None = None
    detail: str | None = None


def why(run: str | Location, query: str) -> list[Answer]:
    """Everything that a run knows of a document id, a page's URL or an image's URL.

    The answers of a record begin with the stage that read it and end with its fate: a drop with
    its reason and detail, or the places that it has in the shards. Empty if the run never saw it.

    Raises:
        FileNotFoundError: there is no run.
    """
    stages = dict(ledger.stage_folders(storage.location(run)))
    known, asked = _first_seen(stages, query), _drops(stages, [query])
    ids = list(dict.fromkeys(a.id for a in known + asked if not _is_sequence(a.id)))
    if not ids:
        return []
    lost, placed = _drops(stages, ids), _places(stages, ids)
    ended = _stopped_by(stages)
    answers = []
    for identity in ids:
        mine = [a for a in lost if a.id == identity]
        answers += [a for a in known if a.id == identity]
        answers += mine + [a for a in asked if a.id == identity and a not in mine]
        gone = any(a.outcome in ("dropped", "error") for a in mine)
        places = [a for a in placed if a.id == identity]
        answers += places or ([] if gone or ended is None else [_surplus(identity, ended)])
    return answers


def _is_sequence(identity: str) -> bool:
    return ":" in identity


def _mentions(table: pa.Table, query: str) -> pa.Table:
    """The rows of documents whose id, URL or image URL is `query`."""
    parents, parts = schema.flatten_parts(table)
    shown = pc.unique(parents.filter(pc.fill_null(pc.equal(parts.field("url"), query), False)))
    rows = pc.is_in(pa.array(range(table.num_rows), pa.int64()), shown.cast(pa.int64()))
    named = pc.or_(pc.equal(table["id"], query), pc.fill_null(pc.equal(table["url"], query), False))
    return table.filter(pc.or_(named, rows))


def _files(stages: Stages, kind: str) -> list[Part]:
    listed = in_parallel(lambda folder: ledger.part_files(folder, kind), stages.values())
    return [(name, file) for name, files in zip(stages, listed, strict=True) for file in files]


def _flat(answers: Iterable[list[Answer]]) -> list[Answer]:
    return [answer for found in answers for answer in found]


def _first_seen(stages: Stages, query: str) -> list[Answer]:
    """The documents that the reading stages made of what was asked for."""
    said = in_parallel(lambda folder: ledger.about(folder.parent), stages.values())
    reading = {
        name: stages[name]
        for name, about in zip(stages, said, strict=True)
        if about and not about["pieces"]["inputs"]
    }
    return _flat(in_parallel(partial(_seen_in, query), _files(reading, "documents")))


def _seen_in(query: str, part: Part) -> list[Answer]:
    name, file = part
    answers = []
    table = read_table(file, columns=["id", "url", "parts", "provenance"])
    for row in _mentions(table, query).to_pylist():
        where = f"{row['provenance']['file']} at {row['provenance']['position']}"
        url = row["url"] or next((p["url"] for p in row["parts"] if p["url"]), None)
        answers.append(Answer(name, row["id"], url, "read", detail=where))
    return answers


def _drops(stages: Stages, names: Collection[str]) -> list[Answer]:
    """What the ledgers say of ids or URLs."""
    wanted = pa.array(names, pa.string())
    return _flat(in_parallel(partial(_drops_in, wanted), _files(stages, "ledger")))


def _drops_in(names: pa.Array, part: Part) -> list[Answer]:
    name, file = part
    drops = read_table(file)
    rows = drops.filter(pc.or_(pc.is_in(drops["id"], names), pc.is_in(drops["url"], names)))
    return [
        Answer(
            name,
            row["id"],
            row["url"],
            row["kind"] if row["unit"] == "document" else f"{row['unit']} {row['kind']}",
            row["reason"],
            row["detail"],
        )
        for row in rows.to_pylist()
    ]


def _places(stages: Stages, ids: Collection[str]) -> list[Answer]:
    """The shards and positions at which pieces of documents stand."""
    if "shards" not in stages:
        return []
    root = stages["shards"]
    tars = [root / shard["name"] for shard in read_json(root / MANIFEST)["shards"]]
    return _flat(in_parallel(partial(_places_in, pa.array(ids, pa.string())), tars))


def _places_in(ids: pa.Array, tar: Location) -> list[Answer]:
    index = read_table(tar.with_suffix(".parquet"), INDEX_COLUMNS)
    documents = index["documents"].combine_chunks()
    rows = pc.list_parent_indices(documents).filter(pc.is_in(pc.list_flatten(documents), ids))
    return [
        Answer("shards", identity, None, "in the shards", detail=f"{tar.name}, sequence {position}")
        for position, shown in zip(*index.take(pc.unique(rows)).to_pydict().values(), strict=True)
        for identity in ids.to_pylist()
        if identity in shown
    ]


def _stopped_by(stages: Stages) -> str | None:
    """The corpus whose end was the mixture's; None if there is no mixture yet."""
    if "shards" not in stages:
        return None
    return str(read_json(stages["shards"] / MANIFEST)["stopped_by"])


def _surplus(identity: str, ended: str) -> Answer:
    """The fate of a document that no rule dropped and no shard shows."""
    detail = f"the mixture ended before it: {ended} ran out"
    return Answer("shards", identity, None, "dropped", "surplus", detail)
