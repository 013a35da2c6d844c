"""What a corpus kept: some documents, and how their words, pictures and scores are spread."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from heapq import nsmallest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards import schema
from shards.report.formats import clip
from shards.report.pictures import Pictures
from shards.report.stages import Stage, Table

KEPT = {True: 8, False: 3}  # kept documents shown of a corpus, by whether they are pairs
PARTS_SHOWN = 12  # parts of a kept document


class Documents:
    """What a corpus kept, as far as the report reads it."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        last = [stage for stage in stages if "documents" in stage.about["holds"]][-1:]
        tables = [table for stage in last for table in stage.tables("documents")]
        self.table = pa.concat_tables([schema.DOCUMENT.empty_table(), *tables])

    @cached_property
    def pairs(self) -> bool:
        """Whether they are caption pairs: one image and one text each."""
        lengths = pc.list_value_length(self.table["parts"])
        _, parts = schema.flatten_parts(self.table)
        texts = len(parts) - parts.field("text").null_count
        return bool(pc.all(pc.equal(lengths, 2)).as_py()) and texts == self.table.num_rows

    def words(self) -> NDArray[np.int64]:
        """Words of each document."""
        owner, parts = schema.flatten_parts(self.table)
        words = pc.count_substring_regex(parts.field("text"), r"\S+").fill_null(0)
        sums = np.bincount(np.asarray(owner), np.asarray(words), minlength=self.table.num_rows)
        return sums.astype(np.int64)

    def languages(self) -> list[tuple[str, int]]:
        """Documents by language, most first, of the first stage that knows languages."""
        for tables in self._outputs(["language"]):
            counts = Counter(v for t in tables for v in t["language"].drop_null().to_pylist())
            if counts:
                return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:12]
        return []

    def scores(self) -> tuple[NDArray[np.float32], float | None]:
        """Similarities as they were before a threshold, and the threshold if a stage names it."""
        for tables in self._outputs(["parts"]):
            parts = [schema.flatten_parts(table)[1] for table in tables]
            values = [np.asarray(p.field("score").drop_null()) for p in parts]
            if sum(map(len, values)):
                return np.concatenate(values), _threshold(self._stages)
        return np.empty(0, np.float32), None

    def _outputs(self, columns: Sequence[str]) -> Iterator[Iterator[pa.Table]]:
        """The first parts of each stage's documents, stage by stage."""
        return (stage.tables("documents", columns) for stage in self._stages)

    def sides(self) -> NDArray[np.int64]:
        """The shorter sides, in pixels, of the images that the kept documents show."""
        _, parts = schema.flatten_parts(self.table)
        shown = pc.unique(parts.field("image").drop_null())
        sides: dict[str, int] = {}
        for stage in self._stages:
            for index in stage.tables("index", ["sha256", "width", "height"]):
                rows = index.filter(pc.is_in(index["sha256"], shown))
                shorter = pc.min_element_wise(rows["width"], rows["height"]).to_pylist()
                sides |= dict(zip(rows["sha256"].to_pylist(), shorter, strict=True))
        return np.array(list(sides.values()), np.int64)

    def samples(self, pictures: Pictures) -> list[Table]:
        """The documents whose hashed ids are smallest."""
        ids = self.table["id"].to_pylist()
        chosen = nsmallest(KEPT[self.pairs], range(len(ids)), key=lambda i: schema.digest(ids[i]))
        rows = self.table.take(pa.array(chosen, pa.int64())).to_pylist()
        names = [p["image"] for row in rows for p in row["parts"][:PARTS_SHOWN]]
        found = pictures.find(names)
        return [_kept_document(row, self.pairs, found) for row in rows]


def _threshold(stages: Sequence[Stage]) -> float | None:
    """The least similarity that a stage's config asks of an image."""
    for stage in stages:
        config = stage.about.get("pieces", {}).get("config")
        for spec in config if isinstance(config, list) else ():
            if isinstance(spec, dict) and spec.get("name") == "image_similarity":
                least: float | None = spec.get("thresholds", {}).get("min")
                return least
    return None


def _kept_document(row: Table, pair: bool, pictures: Mapping[str, str]) -> Table:
    parts = row["parts"]
    shown = [
        part
        | {"text": clip(part["text"]), "alt": clip(part["alt"], 160)}
        | {"picture": pictures.get(part["image"] or "")}
        for part in parts[:PARTS_SHOWN]
    ]
    about = {name: row[name] for name in ("id", "source", "url", "licence", "language")}
    scores = [(name, value) for name, value in row["scores"] or () if value is not None]
    if pair:
        about["url"] = about["url"] or next((p["url"] for p in parts if p["url"]), None)
    return about | {"parts": shown, "more": len(parts) - len(shown), "scores": scores, "pair": pair}
