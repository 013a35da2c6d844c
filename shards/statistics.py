"""What is in a folder of shards, a run or a file of documents, as plain dicts.

Shards are described from their manifest and indexes, without opening a tar.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards import ledger, schema, storage
from shards.loader import open_shards, shards_folder
from shards.storage import Location
from shards.tar import MANIFEST, TOTALS, sequence_groups

TOKEN_BINS = 16


def describe(place: str | Location) -> dict[str, Any]:
    """A summary of what is at `place`; its "kind" is "shards", "run" or "documents".

    Raises:
        FileNotFoundError: none of them is there.
        ShardError: a manifest cannot be read.
    """
    place = storage.location(place)
    if storage.exists(place):
        return describe_documents([place])
    if storage.exists(place / ledger.RUN_FILE):
        return describe_run(place)
    if storage.exists(shards_folder(place) / MANIFEST):
        return describe_shards(place)
    if files := _document_files(place):
        return describe_documents(files)
    raise FileNotFoundError(
        f"{place} has no {MANIFEST}, no {ledger.RUN_FILE} and no Parquet file: give a folder of "
        "shards, a run, a stage or a file of documents"
    )


def _document_files(folder: Location) -> list[Location]:
    """What a finished stage kept, or the Parquet files of any folder."""
    if about := ledger.about(folder):
        return ledger.part_files(folder / about["folder"], "documents")
    return storage.files(folder, ".parquet")


def describe_shards(place: str | Location) -> dict[str, Any]:
    """The mixture that the shards of a run or a folder hold.

    "corpora" has, for each corpus, `weight` (its requested share of sequences), the count and
    achieved share of sequences, tokens, images and documents, and `fill`, the part of its
    sequences that is not padding. "weighted" has, for each source with a weight, its requested and
    achieved share of its corpus's sequences. "sources" and "licences" count segments (a document or
    a piece of one), tokens and images. In "histograms", `tokens` counts sequences in equal bins
    from 0 to `seq_len` by corpus, and `images` those with 0, 1, ... `max_images` images.
    """
    shards = open_shards(place)
    manifest = shards.manifest
    files = [shards.root / shard["name"] for shard in manifest["shards"]]
    indexes = storage.in_parallel(_read_index, files)
    segments = pa.concat_tables([_segment_sums(index) for index in indexes])
    sequences = pa.concat_tables([i.select(["corpus", "tokens", "images"]) for i in indexes])
    settings = ("seq_len", "image_tokens", "max_images", "tokenizer", "seed", "stopped_by")
    return {
        "kind": "shards",
        "sequences": manifest["sequences"],
        "shards": len(manifest["shards"]),
        "bytes": sum(shard["bytes"] for shard in manifest["shards"]),
        **{name: manifest[name] for name in settings},
        "corpora": _corpora(manifest),
        "weighted": _weighted(manifest["sources"], indexes),
        "sources": _sums(segments, "source"),
        "licences": _sums(segments, "licence"),
        "histograms": _histograms(sequences, manifest["seq_len"], manifest["max_images"]),
    }


def _read_index(tar: Location) -> pa.Table:
    """The rows of a tar's index that stand for sequences; ids, most of its bytes, are not read."""
    columns = ["corpus", "tokens", "images", "segments"]
    index = storage.read_table(tar.with_suffix(".parquet"), columns)
    return index.filter(index["tokens"].is_valid()).combine_chunks()


def _segment_sums(index: pa.Table) -> pa.Table:
    """Tokens, images and number of segments by corpus, source and licence."""
    segments = index["segments"].combine_chunks()
    columns = pa.Table.from_struct_array(segments.flatten())
    corpus = index["corpus"].take(pc.list_parent_indices(segments))
    columns = columns.append_column("corpus", corpus)
    columns = columns.append_column("segments", pa.repeat(1, columns.num_rows))
    return _group(columns, ["corpus", "source", "licence"])


def _group(table: pa.Table, keys: list[str]) -> pa.Table:
    """`table` with the segments, tokens and images of equal keys added up."""
    measures = ["segments", "tokens", "images"]
    grouped = table.group_by(keys).aggregate([(measure, "sum") for measure in measures])
    names = {f"{measure}_sum": measure for measure in measures}
    return grouped.rename_columns([names.get(name, name) for name in grouped.column_names])


def _sums(segments: pa.Table, key: str) -> dict[str, dict[str, dict[str, int]]]:
    """Corpus to value of `key` to sums; most tokens first, and "" where there is no value."""
    result: dict[str, dict[str, dict[str, int]]] = {}
    rows = _group(segments, ["corpus", key]).to_pylist()
    for row in sorted(rows, key=lambda row: (row["corpus"], -row["tokens"], row[key] or "")):
        corpus, value = row.pop("corpus"), row.pop(key) or ""
        result.setdefault(corpus, {})[value] = row
    return result


def _corpora(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    weights, corpora = manifest["weights"], manifest["corpora"]
    none = dict.fromkeys((*TOTALS, "padding"), 0)
    whole = {key: sum(sums[key] for sums in corpora.values()) for key in TOTALS}
    return {
        name: {
            "weight": weights.get(name, 0) / sum(weights.values()),
            "fill": _share(corpora.get(name, none)["tokens"], _room(manifest, name)),
            **{
                key: {"count": n, "share": _share(n, whole[key])}
                for key, n in corpora.get(name, none).items()
                if key in TOTALS
            },
        }
        for name in sorted(weights.keys() | corpora.keys())
    }


def _weighted(
    sources: Mapping[str, Mapping[str, float]], indexes: Sequence[pa.Table]
) -> dict[str, dict[str, dict[str, float]]]:
    """By corpus and source what share of the corpus's sequences was asked for, and what it has."""
    groups = [sequence_groups(index, sources).to_pylist() for index in indexes] if sources else []
    counts = Counter(group for each in groups for group in each)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for corpus, weights in sources.items():
        mine = {source: counts[f"{corpus}/{source}"] for source in weights}
        found[corpus] = {
            source: {
                "weight": weight / sum(weights.values()),
                "sequences": mine[source],
                "share": _share(mine[source], sum(mine.values())),
            }
            for source, weight in weights.items()
        }
    return found


def _room(manifest: dict[str, Any], corpus: str) -> int:
    """The tokens that the sequences of a corpus could hold."""
    sequences = manifest["corpora"].get(corpus, {}).get("sequences", 0)
    return int(sequences * manifest["seq_len"])


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _histograms(sequences: pa.Table, seq_len: int, max_images: int) -> dict[str, Any]:
    edges = np.linspace(0, seq_len, TOKEN_BINS + 1)
    result: dict[str, Any] = {"tokens": {}, "images": {}, "token_edges": edges.tolist()}
    for corpus in sorted(sequences["corpus"].unique().to_pylist()):
        rows = sequences.filter(pc.equal(sequences["corpus"], corpus))
        tokens, images = rows["tokens"].to_numpy(), rows["images"].to_numpy()
        result["tokens"][corpus] = np.histogram(tokens, edges)[0].tolist()
        result["images"][corpus] = np.bincount(images, minlength=max_images + 1).tolist()
    return result


def describe_run(run: Location) -> dict[str, Any]:
    """What each finished stage of a run read, kept, dropped and failed on, and its shards."""
    folders = dict(ledger.stage_folders(run))
    counts = storage.in_parallel(ledger.read_counts, folders.values())
    stages = [{"stage": name, **asdict(c)} for name, c in zip(folders, counts, strict=True)]
    shards = describe_shards(folders["shards"]) if "shards" in folders else None
    return {"kind": "run", "stages": stages, "shards": shards}


def describe_documents(files: Sequence[Location]) -> dict[str, Any]:
    """Counts over Parquet files of `schema.DOCUMENT`.

    Raises:
        ValueError: a file is not Parquet, or has no documents' columns.
    """
    counts: Counter[str] = Counter()
    groups = {column: Counter[str]() for column in ("source", "licence", "language")}
    scores: dict[str, list[np.ndarray]] = {}
    for table in map(_read_documents, files):
        counts.update(_content(table))
        for column, counter in groups.items():
            counter.update(_value_counts(table[column]))
        for name, values in _scores(table):
            scores.setdefault(name, []).append(values)
    return {
        "kind": "documents",
        "files": len(files),
        **counts,
        **{f"{column}s": dict(counter.most_common()) for column, counter in groups.items()},
        "scores": {name: _spread(np.concatenate(scores[name])) for name in sorted(scores)},
    }


def _read_documents(file: Location) -> pa.Table:
    columns = ["parts", "source", "licence", "language", "scores"]
    missing = set(columns) - set(storage.read_schema(file).names)
    if missing:
        names = ", ".join(sorted(missing))
        raise ValueError(f"{file} holds no documents: it has no column {names}")
    return storage.read_table(file, columns)


def _content(table: pa.Table) -> dict[str, int]:
    rows, parts = schema.flatten_parts(table)
    texts = parts.field("text")
    is_image = texts.is_null()
    return {
        "documents": table.num_rows,
        "texts": len(texts) - texts.null_count,
        "characters": pc.sum(pc.utf8_length(texts)).as_py() or 0,
        "images": texts.null_count,
        "documents_with_images": len(rows.filter(is_image).unique()),
    }


def _value_counts(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value occurs; "" stands for none."""
    counts = column.fill_null("").value_counts()
    values, numbers = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
    return dict(zip(values, numbers, strict=True))


def _scores(table: pa.Table) -> Iterator[tuple[str, np.ndarray]]:
    """The values of every score by its name, one for each document that has it."""
    maps = table["scores"].combine_chunks()
    keys = pa.concat_arrays([m.keys for m in _chunks(maps)])
    items = pa.concat_arrays([m.items for m in _chunks(maps)])
    for name in keys.unique().to_pylist():
        yield name, items.filter(pc.equal(keys, name)).drop_null().to_numpy()


def _chunks(array: Any) -> list[pa.Array]:
    return array.chunks if isinstance(array, pa.ChunkedArray) else [array]


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {"count": 0}
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95]).tolist()
    return {"count": len(values), "p5": low, "median": middle, "p95": high}
