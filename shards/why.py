"""Where a record is, or which rule dropped it: the ledger read for one document or URL."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from shards import ledger, schema
from shards.storage import read_json, read_table
from shards.tar import MANIFEST

INDEX_COLUMNS = ["position", "documents"]


@dataclass(frozen=True)
class Answer:
    """One thing that happened to a record."""

    stage: str
    id: str
    url: str | None
    outcome: str  # "dropped", "error", "read", "in the shards"
    reason: str | None = None
    detail: str | None = None


def why(run: Path, query: str) -> list[Answer]:
    """Everything that a run knows of a document id, a page's URL or an image's URL.

    The answers of a record begin with the stage that read it and end with its fate: a drop with
    its reason and detail, or the places that it has in the shards. Empty if the run never saw it.
    """
    stages = list(ledger.stage_folders(run))
    known = [answer for name, folder in stages for answer in _first_seen(name, folder, query)]
    drops = [answer for name, folder in stages for answer in _drops(name, folder, query)]
    ids = list(dict.fromkeys(a.id for a in known + drops if not _is_sequence(a.id)))
    answers = []
    for identity in ids:
        answers += [a for a in known if a.id == identity]
        mine = [a for name, folder in stages for a in _drops(name, folder, identity)]
        by_url = [a for a in drops if a.id == identity and a not in mine]
        places = list(_places(run, identity))
        gone = any(a.outcome in ("dropped", "error") for a in mine)
        answers += mine + by_url + (places or _surplus(run, identity, gone))
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


def _first_seen(name: str, folder: Path, query: str) -> Iterator[Answer]:
    """The documents that a reading stage made of what was asked for."""
    if read_json(folder / ledger.STAGE_FILE)["pieces"]["inputs"]:
        return
    for file in sorted((folder / "documents").glob("*.parquet")):
        table = read_table(file, columns=["id", "url", "parts", "provenance"])
        for row in _mentions(table, query).to_pylist():
            where = f"{row['provenance']['file']} at {row['provenance']['position']}"
            url = row["url"] or next((p["url"] for p in row["parts"] if p["url"]), None)
            yield Answer(name, row["id"], url, "read", detail=where)


def _drops(name: str, folder: Path, query: str) -> Iterator[Answer]:
    drops = ledger.read_drops(folder)
    mine = drops.filter(
        pc.or_(pc.equal(drops["id"], query), pc.fill_null(pc.equal(drops["url"], query), False))
    )
    for row in mine.to_pylist():
        what = row["kind"] if row["unit"] == "document" else f"{row['unit']} {row['kind']}"
        yield Answer(name, row["id"], row["url"], what, row["reason"], row["detail"])


def _places(run: Path, identity: str) -> Iterator[Answer]:
    """The shards and positions at which pieces of a document stand."""
    folder = run / "shards"
    if not (folder / MANIFEST).exists():
        return
    for shard in read_json(folder / MANIFEST)["shards"]:
        index = read_table((folder / shard["name"]).with_suffix(".parquet"), INDEX_COLUMNS)
        for row in index.filter(index["documents"].is_valid()).to_pylist():
            if identity in row["documents"]:
                place = f"{shard['name']}, sequence {row['position']}"
                yield Answer("shards", identity, None, "in the shards", detail=place)


def _surplus(run: Path, identity: str, dropped: bool) -> list[Answer]:
    """The fate of a document that no rule dropped and no shard shows."""
    if dropped or not (run / "shards" / MANIFEST).exists():
        return []
    stopped: dict[str, Any] = read_json(run / "shards" / MANIFEST)
    detail = f"the mixture ended before it: {stopped['stopped_by']} ran out"
    return [Answer("shards", identity, None, "dropped", "surplus", detail)]
