"""The mixture: its shares, how the ratio held along it, and the first sequences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards import ledger, storage
from shards.loader import Shards
from shards.report.formats import clip
from shards.report.lines import deviation_plot
from shards.report.pictures import Pictures
from shards.report.stages import PARTS_READ, Stage, Table
from shards.statistics import describe_shards
from shards.storage import Location

SHARDS_LISTED = 100
SEQUENCE_CHARACTERS = 2500  # of a part of a packed sequence


def mixture(shards: Shards, stages: Sequence[Stage]) -> Table:
    """What `describe_shards` says, and how the ratio held along the positions."""
    about = describe_shards(shards.root)
    order = _corpus_of_positions(shards, list(about["corpora"]))
    lines = {
        name: np.cumsum(order == k) - corpus["weight"] * np.arange(1, len(order) + 1)
        for k, (name, corpus) in enumerate(about["corpora"].items())
    }
    first = {name: np.flatnonzero(order == k)[:1].tolist() for k, name in enumerate(lines)}
    shares = {
        key: {name: c[key]["share"] for name, c in about["corpora"].items()}
        for key in ("sequences", "tokens", "images", "documents")
    }
    requested = {name: corpus["weight"] for name, corpus in about["corpora"].items()}
    return about | {
        "bars": {"requested": requested, **shares},
        "worst": {name: float(np.abs(line).max(initial=0)) for name, line in lines.items()},
        "deviation": deviation_plot(lines),
        "firsts": {name: positions[0] for name, positions in first.items() if positions},
        "surplus": _surplus(stages),
        "files": shards.manifest["shards"][:SHARDS_LISTED],
        "used": {n: {k: c[k]["count"] for k in shares} for n, c in about["corpora"].items()},
    }


def _indexes(shards: Shards) -> list[Location]:
    """The Parquet file beside each tar."""
    names = [shard["name"] for shard in shards.manifest["shards"]]
    return [(shards.root / name).with_suffix(".parquet") for name in names]


def _corpus_of_positions(shards: Shards, names: Sequence[str]) -> NDArray[np.int32]:
    """The corpus of every position of the mixture, as an index in `names`."""
    values = pa.array(names, pa.string())

    def read(file: Location) -> NDArray[np.int32]:
        rows = storage.read_table(file, ["corpus", "tokens"])
        corpora = rows.filter(rows["tokens"].is_valid())["corpus"]
        order: NDArray[np.int32] = pc.index_in(corpora, values).to_numpy()
        return order

    parts = storage.in_parallel(read, _indexes(shards))
    return np.concatenate([np.empty(0, np.int32), *parts])


def _surplus(stages: Sequence[Stage]) -> dict[str, int]:
    """Packed sequences for which the mixture had no place, by corpus and by weighted source."""
    left: Counter[str] = Counter()
    for stage in stages:
        if "sequence" in stage.counts.dropped:
            drops = ledger.read_drops(stage.folder, columns=["id", "unit"])
            ids = drops.filter(pc.equal(drops["unit"], "sequence"))["id"].to_pylist()
            groups = [name.rpartition(":")[0] for name in ids]
            left.update(groups)
            left.update(group.partition("/")[0] for group in groups if "/" in group)
    return dict(sorted(left.items()))


def packed_samples(
    shards: Shards, firsts: Mapping[str, int], pictures: Pictures
) -> dict[str, Table]:
    """The first sequence of each corpus in the mixture, as the trainer reads it."""
    seq_len = shards.manifest["seq_len"]
    return {
        name: _packed_sample(shards[position], seq_len, pictures)
        for name, position in firsts.items()
    }


def _packed_sample(sequence: Any, seq_len: int, pictures: Pictures) -> Table:
    shown = {name: pictures.show(body) for name, body in sorted(sequence.images.items())}
    segments = [
        segment
        | {"tokens": 1 + sum(part["tokens"] for part in segment["parts"])}
        | {"parts": [_packed_part(part, shown) for part in segment["parts"]]}
        for segment in sequence.segments
    ]
    return {
        "position": sequence.position,
        "tokens": sequence.tokens,
        "images": len(sequence.images),
        "padding": seq_len - sequence.tokens,
        "seq_len": seq_len,
        "segments": segments,
    }


def _packed_part(part: Table, pictures: Mapping[str, str | None]) -> Table:
    if "image" in part:
        return part | {"picture": pictures[part["image"]]}
    return part | {"text": clip(part["text"], SEQUENCE_CHARACTERS)}


def document_tokens(shards: Shards) -> dict[str, NDArray[np.int64]]:
    """Tokens of each document, its pieces added up, in the first shards."""
    sums: dict[str, Counter[str]] = {}
    for file in _indexes(shards)[:PARTS_READ]:
        rows = storage.read_table(file, ["corpus", "documents", "segments"])
        for row in rows.filter(rows["segments"].is_valid()).to_pylist():
            mine = sums.setdefault(row["corpus"], Counter())
            for name, segment in zip(row["documents"], row["segments"], strict=True):
                mine[name] += segment["tokens"]
    return {name: np.array(list(sums[name].values()), np.int64) for name in sorted(sums)}
