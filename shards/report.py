"""The HTML report of a run: one file that shows what was mixed, what was dropped and why.

Python counts and places, the template `report.html` draws. Everything that came from the web is
text to the template, which escapes it; the page has no script and asks nobody for anything.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import nsmallest
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from shards import ledger, measures, schema, storage
from shards.images import open_image, read_image
from shards.loader import Shards, open_shards
from shards.measures import Bound, RuleAccount
from shards.statistics import describe_shards
from shards.storage import Location

REPORT = "report.html"
MIX = "mix"  # what the stages that belong to no corpus are listed under

# The report samples: a run of any size gives a page of bounded size in bounded time.
PARTS_READ = 16  # parts of a stage, or shards, that samples and distributions are taken from
KEPT = {True: 8, False: 3}  # kept documents shown of a corpus, by whether they are pairs
PARTS_SHOWN = 12  # parts of a kept document
DROPPED = 3  # dropped records shown of a stage and reason
SHARDS_LISTED = 100
CHARACTERS = 420  # of a text
LINK_CHARACTERS = 2000
SEQUENCE_CHARACTERS = 2500  # of a part of a packed sequence
THUMBNAIL = 150  # pixels of the longer side
PICTURE_BYTES = 1_600_000  # of all thumbnails, before base64 adds a third
POINTS = 400  # along a line

Table = dict[str, Any]  # what the template reads
Group = tuple[bool, str]  # of the ledger's rows: whether their records were kept, and the reason


@dataclass(frozen=True)
class Stage:
    """A finished stage as its folder tells of it."""

    name: str
    folder: Location
    about: Table

    @cached_property
    def counts(self) -> ledger.Counts:
        """Records read, kept and lost, summed over its parts."""
        return ledger.Counts(**self.about["counts"])

    @property
    def corpus(self) -> str:
        """The corpus that a stage named `corpus/step` works on."""
        return self.name.partition("/")[0] if "/" in self.name else MIX

    def tables(self, kind: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The first parts of its output."""
        files = ledger.part_files(self.folder, kind)[:PARTS_READ]
        yield from storage.in_parallel(lambda file: storage.read_table(file, columns), files)


def read_stages(run: Location) -> list[Stage]:
    """The finished stages of a run in the order in which records pass them."""
    folders = dict(ledger.stage_folders(run))
    said = storage.in_parallel(lambda f: ledger.about(f.parent), folders.values())
    stages = zip(folders.items(), said, strict=True)
    return [Stage(name, folder, about) for (name, folder), about in stages if about]


def write_report(run: str | Location, out: str | Location | None = None) -> Location:
    """Writes the report of a run to `out`, by default `run/report.html`, and returns its place.

    The same run gives the same bytes, up to the seconds that its stages took.

    Raises:
        FileNotFoundError: there is no run, or it has no finished stage.
        ShardError: the run's shards cannot be read.
    """
    run = storage.location(run)
    out = storage.location(out or run / REPORT)
    stages = read_stages(run)
    if not stages:
        raise FileNotFoundError(f"{run} has no finished stage: give the folder of a run")
    storage.write_atomic(out, _render(_gather(run, stages)).encode("utf-8", "replace"))
    return out


def _gather(run: Location, stages: Sequence[Stage]) -> Table:
    """Everything that the page shows."""
    shards = next((open_shards(s.folder) for s in stages if s.name == "shards"), None)
    mix = _mixture(shards, stages) if shards else None
    corpora = {s.corpus for s in stages} - {MIX} | (set(mix["corpora"]) if mix else set())
    pictures = Pictures([s for s in stages if "index" in s.about["holds"]])
    by_corpus = {name: [s for s in stages if s.corpus == name] for name in sorted(corpora)}
    documents = {name: Documents(mine) for name, mine in by_corpus.items() if mine}
    kept = {name: found.samples(pictures) for name, found in documents.items()}
    return {
        "name": run.resolve().name if isinstance(run, Path) else str(run),
        "corpora": {name: f"c{i % 6}" for i, name in enumerate(by_corpus)},
        "mix": mix,
        "funnels": _funnels(stages),
        "kept": kept,
        "packed": _packed_samples(shards, mix["firsts"], pictures) if shards and mix else {},
        "dropped": _dropped(stages, pictures),
        "measured": _measured(stages),
        "plots": _plots(shards, documents, mix),
        "languages": {n: found for n, d in documents.items() if (found := d.languages())},
        "parts_read": PARTS_READ,
        "training": _training(run / "train" / "metrics.jsonl"),
        "costs": _costs(stages, storage.read_json(run / ledger.RUN_FILE).get("core_hour_price")),
        "stages": [_provenance(stage) for stage in stages],
        "skipped": pictures.skipped,
    }


# The mixture


def _mixture(shards: Shards, stages: Sequence[Stage]) -> Table:
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
        "deviation": _deviation_plot(lines),
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


# The account


def _funnels(stages: Sequence[Stage]) -> list[Table]:
    """By corpus, its stages; bars are relative to the most records of their unit in the corpus."""
    names = dict.fromkeys(stage.corpus for stage in stages)
    groups = [(name, [s for s in stages if s.corpus == name]) for name in sorted(names, key=_last)]
    return [_funnel(name, mine) for name, mine in groups]


def _last(corpus: str) -> tuple[bool, str]:
    return corpus == MIX, corpus


def _funnel(corpus: str, stages: Sequence[Stage]) -> Table:
    most: Counter[str] = Counter()
    for stage in stages:
        for unit, n in stage.counts.read.items():
            most[unit] = max(most[unit], n)
    rows = [row for stage in stages for row in _accounts(stage, most)]
    documents = [row for row in rows if row["unit"] == "document"]
    return {
        "corpus": corpus,
        "rows": rows,
        "read": documents[0]["read"] if documents else 0,
        "kept": documents[-1]["kept"] if documents else 0,
    }


def _accounts(stage: Stage, most: Mapping[str, int]) -> Iterator[Table]:
    """One row a unit that the stage counts, without the reasons if the row before has the same."""
    counts, shown = stage.counts, None
    for unit in sorted(counts.read):
        dropped, errors = counts.dropped.get(unit, {}), counts.errors.get(unit, {})
        read, kept = counts.read[unit], counts.kept.get(unit, 0)
        whole = most[unit] or 1
        sums = {"kept": kept, "dropped": sum(dropped.values()), "errors": sum(errors.values())}
        reasons = sorted((dropped | errors).items(), key=lambda pair: (-pair[1], pair[0]))
        linked = [] if reasons == shown else [(r, n, _anchor(stage.name, r)) for r, n in reasons]
        shown = reasons
        yield {
            "stage": stage.name,
            "step": stage.name.rpartition("/")[2],
            "unit": unit,
            "read": read,
            **sums,
            "shares": {kind: n / whole for kind, n in sums.items()},
            "adds_up": read == sum(sums.values()),
            "reasons": linked,
        }


def _anchor(*names: str) -> str:
    return "drop-" + schema.digest(*names)[:10]


def _costs(stages: Sequence[Stage], price: float | None) -> Table:
    """Core seconds of each stage's own code, and what they cost at `price` a core hour."""
    rows = [_cost(stage, price) for stage in stages]
    seconds = sum(row["seconds"] for row in rows)
    return {"rows": rows, "seconds": seconds, "cost": _dollars(seconds, price), "price": price}


def _cost(stage: Stage, price: float | None) -> Table:
    seconds = stage.about["seconds"]
    unit = min(stage.counts.read, default=None)  # "document" comes before "image"
    read = stage.counts.read[unit] if unit else 0
    about = {"name": stage.name, "corpus": stage.corpus, "unit": unit, "read": read}
    rate = read / seconds if read and seconds else None
    return about | {"seconds": seconds, "rate": rate, "cost": _dollars(seconds, price)}


def _dollars(seconds: float, price: float | None) -> float | None:
    return None if price is None else seconds / 3600 * price


def _provenance(stage: Stage) -> Table:
    pieces = stage.about.get("pieces", {})
    return {
        "name": stage.name,
        "corpus": stage.corpus,
        "fingerprint": stage.about.get("fingerprint", ""),
        "code": pieces.get("code", ""),
        "inputs": sorted(pieces.get("inputs", {})),
        "config": _clip(json.dumps(pieces.get("config"), indent=1, ensure_ascii=False), 4000),
        "parts": stage.about.get("parts"),
    }


# Pictures


Place = tuple[str, Location, str, int, int]  # sha256, store, tar, offset and length


@dataclass
class Pictures:
    """Thumbnails of stored images as data URIs, until the page's room for pictures is used up."""

    stores: Sequence[Stage]  # those with an index
    room: int = PICTURE_BYTES
    skipped: int = 0  # stored, but not shown: not decodable, or no room
    made: dict[str, str | None] = field(default_factory=dict)

    def find(self, names: Iterable[str | None]) -> dict[str, str]:
        """Data URIs by sha256, of those images that are in a store and can be shown."""
        wanted = sorted({name for name in names if name} - self.made.keys())
        self.made |= dict.fromkeys(wanted)
        places = list(dict.fromkeys(self._places(wanted)))
        bodies = storage.in_parallel(_stored, places)
        for (name, *_), body in zip(places, bodies, strict=True):
            if self.made[name] is None:
                self.made[name] = self.show(body)
        return {name: uri for name in names if name and (uri := self.made[name])}

    def _places(self, wanted: list[str]) -> Iterator[Place]:
        columns = ["sha256", "tar", "offset", "length"]

        def read(file: Location) -> pa.Table:
            return storage.read_table(file, columns, filters=[("sha256", "in", wanted)])

        for stage in self.stores if wanted else ():
            for rows in storage.in_parallel(read, ledger.part_files(stage.folder, "index")):
                for name, *place in zip(*(rows[c].to_pylist() for c in columns), strict=True):
                    yield name, stage.folder, *place

    def show(self, body: bytes) -> str | None:
        """The data URI of a thumbnail, or None, counted in `skipped`."""
        try:
            small = _thumbnail(body)
        except Exception:  # a decoder fed with a stranger's bytes raises anything
            small = b""
        if not small or len(small) > self.room:
            self.skipped += 1
            return None
        self.room -= len(small)
        return "data:image/jpeg;base64," + base64.b64encode(small).decode()


def _stored(place: Place) -> bytes:
    """The bytes of a stored image; none if the store was moved away since."""
    _, store, tar, offset, length = place
    try:
        return read_image(store, tar, offset, length)
    except (OSError, EOFError):
        return b""


def _thumbnail(body: bytes) -> bytes:
    image = open_image(body)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=76, optimize=True)
    return out.getvalue()


# Kept documents


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
        | {"text": _clip(part["text"]), "alt": _clip(part["alt"], 160)}
        | {"picture": pictures.get(part["image"] or "")}
        for part in parts[:PARTS_SHOWN]
    ]
    about = {name: row[name] for name in ("id", "source", "url", "licence", "language")}
    scores = [(name, value) for name, value in row["scores"] or () if value is not None]
    if pair:
        about["url"] = about["url"] or next((p["url"] for p in parts if p["url"]), None)
    return about | {"parts": shown, "more": len(parts) - len(shown), "scores": scores, "pair": pair}


def _clip(text: str | None, limit: int = CHARACTERS) -> str | None:
    """The beginning of a text, at most `limit` characters, and a mark that it goes on."""
    return text if text is None or len(text) <= limit else text[: limit - 1].rstrip() + "…"


# Packed sequences


def _packed_samples(
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
    return part | {"text": _clip(part["text"], SEQUENCE_CHARACTERS)}


# Dropped records


def _dropped(stages: Sequence[Stage], pictures: Pictures) -> list[Table]:
    """By stage and reason: how many records of each unit, and a few of them."""
    ordered = sorted(stages, key=lambda stage: _last(stage.corpus))
    groups = [group for stage in ordered for group in _drop_groups(stage)]
    found = pictures.find([row["image"] for group in groups for row in group["rows"]])
    for group in groups:
        group["rows"] = [row | {"picture": found.get(row["image"] or "")} for row in group["rows"]]
    return groups


def _drop_groups(stage: Stage) -> list[Table]:
    """A group for each reason, most records first, and then those of what was only reported."""
    counts, units = stage.counts, dict[Group, dict[str, int]]()
    for only, table in ((False, counts.dropped), (False, counts.errors), (True, counts.reported)):
        for unit, reasons in sorted(table.items()):
            for reason, n in reasons.items():
                units.setdefault((only, reason), {})[unit] = n
    samples = _drop_samples(stage) if units else {}
    about = {"corpus": stage.corpus, "stage": stage.name}
    return [
        about
        | {"reason": reason, "reported": only, "counts": units[only, reason]}
        | {"anchor": _anchor(stage.name, reason, *[ledger.REPORTED] * only)}
        | {"rows": samples.get((only, reason), [])}
        for only, reason in sorted(units, key=lambda g: (g[0], -max(units[g].values()), g[1]))
    ]


def _drop_samples(stage: Stage) -> dict[Group, list[Table]]:
    """The records with content whose hashed ids are smallest, by group."""
    best: dict[Group, list[Table]] = {}
    files = ledger.part_files(stage.folder, "ledger")
    for drops in storage.in_parallel(lambda f: _with_content(storage.read_table(f)), files):
        rows = sorted(drops.to_pylist(), key=_by_group)
        for group, mine in groupby(rows, key=_group_of):
            # A pair that is dropped for its image has two rows: the document's comes first.
            single = {row["id"]: row for row in reversed([*best.get(group, []), *mine])}
            best[group] = nsmallest(DROPPED, single.values(), key=_drop_rank)
    return {group: [_drop_row(row) for row in rows] for group, rows in best.items()}


def _with_content(drops: pa.Table) -> pa.Table:
    """The ledger's bounded sample, and a few rows of reasons of which none has content."""
    sample = drops.filter(drops["content"].is_valid())
    bare = set(drops["reason"].unique().to_pylist()) - set(sample["reason"].unique().to_pylist())
    few = [
        drops.filter(pc.equal(drops["reason"], reason)).sort_by("id").slice(0, DROPPED)
        for reason in sorted(bare)
    ]
    return pa.concat_tables([sample, *few])


def _group_of(row: Mapping[str, Any]) -> Group:
    return row["kind"] == ledger.REPORTED, row["reason"]


def _by_group(row: Mapping[str, Any]) -> tuple[Group, str, str]:
    return _group_of(row), row["unit"], row["url"] or ""


def _drop_rank(row: Mapping[str, Any]) -> tuple[bool, str]:
    return not row["content"], schema.digest(row["id"])


def _drop_row(row: Table) -> Table:
    content = " ".join((row["content"] or "").split())
    return row | {"content": _clip(content, 260), "detail": _clip(row["detail"], 200)}


# What rules measured


def _measured(stages: Sequence[Stage]) -> list[Table]:
    """By stage, how what its rules measured is spread, and what each rule dropped."""
    ordered = sorted(stages, key=lambda stage: _last(stage.corpus))
    found = [_measured_by(s) for s in ordered if measures.MEASURES in s.about["holds"]]
    return [about for about in found if about["plots"] or about["flags"]]


def _measured_by(stage: Stage) -> Table:
    account = measures.account(stage.folder)
    shown = [rule for rule in account.rules if rule.measured]
    return {
        "stage": stage.name,
        "corpus": stage.corpus,
        "records": account.records,
        "unit": "image" if "image" in stage.counts.read else "document",
        "plots": [p for rule in shown if not rule.bound.fixed for p in _measures(stage, rule)],
        "flags": [rule for rule in shown if rule.bound.fixed],
    }


def _measures(stage: Stage, rule: RuleAccount) -> list[Table]:
    """The histogram of a rule."""
    values, counts = rule.values.counts()
    finite = values[np.isfinite(values)]
    if not len(finite):
        return []
    values, bound = np.clip(values, finite[0], finite[-1]), _as_counted(rule.bound)
    edges = measure_edges(values, counts, bound)
    heights = np.histogram(values, edges, weights=counts)[0].astype(int).tolist()
    plot = _bars(stage.corpus, heights, edges.tolist(), bound)
    plot["bars"] = [bar for bar in plot["bars"] if bar["height"]]
    bounded = bound.min is not None or bound.max is not None
    dropped = f", {rule.first:,} dropped" if bounded else ""
    summary = f"{rule.measured:,} measured, median {_short(rule.values.quantile(0.5))}{dropped}"
    return [plot | {"title": rule.bound.rule, "summary": summary}]


def _as_counted(bound: Bound) -> Bound:
    """A bound that is rounded as the values of a distribution are."""
    low, high = (
        None if limit is None else float(measures.rounded(np.array([limit], np.float32))[0])
        for limit in (bound.min, bound.max)
    )
    return Bound(bound.rule, low, high)


MOST_COUNT = 1 << 30


def measure_edges(
    values: NDArray[np.float32], counts: NDArray[np.int64], bound: Bound
) -> NDArray[np.float64]:
    """Bins for finite values that part those within the bound from the others.

    `values` ascend. Whole numbers have the bins of `count_edges`.
    """
    limits = [limit for limit in (bound.min, bound.max) if limit is not None]
    whole = bool(np.all(values == np.floor(values)))
    if whole and values[0] >= 0 and values[-1] < MOST_COUNT:
        inside = [limit for limit in limits if 0 <= limit < MOST_COUNT]
        edges = count_edges(np.append(values, inside).astype(np.int64))
    else:
        edges = _equal_edges(values, counts, limits)
    cuts = [] if bound.min is None else [bound.min]
    if bound.max is not None:
        cuts.append(bound.max + 1 if whole else float(np.nextafter(bound.max, np.inf)))
    parted: NDArray[np.float64] = np.unique(
        [*edges, *(cut for cut in cuts if edges[0] < cut < edges[-1])]
    )
    return parted


BINS = 24
OUTLIERS = 0.005  # of the values at either end, which the first and the last bin reach out to


def _equal_edges(
    values: NDArray[np.float32], counts: NDArray[np.int64], limits: Sequence[float]
) -> NDArray[np.float64]:
    """About as many round bins over the values but the outliers, and over the limits."""
    upto = np.cumsum(counts)
    ends = values[np.searchsorted(upto, upto[-1] * np.array([OUTLIERS, 1 - OUTLIERS]))]
    low, high = min(float(ends[0]), *limits, np.inf), max(float(ends[1]), *limits, -np.inf)
    step = _round_step((high - low) / BINS or abs(high) or 1.0)
    first = np.floor(low / step)
    last = max(np.ceil(high / step), first + 1)
    edges: NDArray[np.float64] = np.round(np.arange(first, last + 1) * step, 10)
    edges[0], edges[-1] = min(edges[0], values[0]), max(edges[-1], values[-1])
    return edges


# Distributions and curves


def _plots(
    shards: Shards | None, documents: Mapping[str, Documents], mix: Table | None
) -> list[tuple[str, list[Table]]]:
    """Histograms by what they count; one for each corpus that has values."""
    scores: list[Table] = []
    for name, found in documents.items():
        values, least = found.scores()
        scores += _histogram(name, values, _score_edges(values), Bound("similarity", min=least))
    words = {name: found.words() for name, found in documents.items()}
    sides = {name: found.sides() for name, found in documents.items()}
    groups = [
        ("Image-text similarity (CLIP), before the threshold", scores),
        ("Words per document", _histograms(words)),
        ("Shorter side of images, pixels", _histograms(sides)),
    ]
    if shards and mix:
        binned, edges = mix["histograms"], mix["histograms"]["token_edges"]
        images = list(range(mix["max_images"] + 2))
        groups += [
            ("Tokens per document in the mixture", _histograms(_document_tokens(shards))),
            ("Tokens per sequence", [_bars(n, c, edges) for n, c in binned["tokens"].items()]),
            ("Images per sequence", [_bars(n, c, images) for n, c in binned["images"].items()]),
        ]
    return [(title, plots) for title, plots in groups if plots]


def _document_tokens(shards: Shards) -> dict[str, NDArray[np.int64]]:
    """Tokens of each document, its pieces added up, in the first shards."""
    sums: dict[str, Counter[str]] = {}
    for file in _indexes(shards)[:PARTS_READ]:
        rows = storage.read_table(file, ["corpus", "documents", "segments"])
        for row in rows.filter(rows["segments"].is_valid()).to_pylist():
            mine = sums.setdefault(row["corpus"], Counter())
            for name, segment in zip(row["documents"], row["segments"], strict=True):
                mine[name] += segment["tokens"]
    return {name: np.array(list(sums[name].values()), np.int64) for name in sorted(sums)}


def _histograms(values: Mapping[str, NDArray[np.int64]]) -> list[Table]:
    return [plot for name, v in values.items() for plot in _histogram(name, v, count_edges(v))]


def count_edges(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """A bin for each number where they are small, else half or quarter octaves."""
    smallest, high = int(values.min(initial=1 << 40)), int(values.max(initial=0))
    if high <= 32:
        return np.arange(0, high + 2, dtype=np.float64)
    low, high = max(smallest, 1), high + 1
    per_octave = 2 if high > 32 * low else 4
    first = np.floor(per_octave * np.log2(low))
    steps = np.arange(first, per_octave * np.log2(high) + 1) / per_octave
    edges: NDArray[np.float64] = np.unique(np.floor(2**steps))
    return edges if smallest > 0 else np.append(0, edges)


def _score_edges(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Bins of 0.02, or of 0.05 where the values spread wide."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    step = 0.02 if high - low < 0.5 else 0.05
    edges: NDArray[np.float64] = np.arange(np.floor(low / step), np.ceil(high / step) + 1) * step
    return np.round(edges, 2) if len(edges) > 1 else np.array([0, step])


def _histogram(
    corpus: str, values: NDArray[Any], edges: NDArray[np.float64], bound: Bound | None = None
) -> list[Table]:
    if not len(values):
        return []
    counts = np.histogram(values, edges)[0].tolist()
    plot = _bars(corpus, counts, edges.tolist(), bound)
    return [plot | {"summary": f"{len(values):,} values, median {_short(np.median(values))}"}]


WIDTH, HEIGHT = 320, 120  # of a histogram's bars


def _bars(
    corpus: str, counts: Sequence[int], edges: Sequence[float], bound: Bound | None = None
) -> Table:
    """Bars of equal width, one a bin, in pixels, and the bounds of what is kept."""
    step, top = WIDTH / len(counts), max([*counts, 1])
    whole = all(float(edge).is_integer() for edge in edges)
    single = whole and edges[1] - edges[0] == 1 and edges[-1] - edges[0] == len(counts)
    bars = [
        {
            "x": k * step + 0.5,
            "width": max(step - 1, 0.5),
            "height": n / top * HEIGHT,
            "label": f"{_bin(edges[k], edges[k + 1], single)}: {n:,}",
            "out": bound is not None and _is_out(edges[k], edges[k + 1], bound),
        }
        for k, n in enumerate(counts)
    ]
    every = max(1, len(counts) // 6)
    middle = step / 2 if single else 0
    ends = range(0, len(counts) if single else len(edges), every)
    return {
        "corpus": corpus,
        "title": corpus,
        "bars": bars,
        "top": top,
        "ticks": [(k * step + middle, _short(edges[k])) for k in ends],
        "marks": list(_marks(edges, step, bound)) if bound else [],
        "summary": f"{sum(counts):,} values",
    }


def _is_out(low: float, high: float, bound: Bound) -> bool:
    """Whether nothing of a bin, which is below `high`, is kept."""
    under = bound.min is not None and high <= bound.min
    return under or (bound.max is not None and low > bound.max)


def _marks(edges: Sequence[float], step: float, bound: Bound) -> Iterator[Table]:
    """Lines at the bounds, each with a label on the side where there is more room."""
    found: list[tuple[float, str]] = []
    if bound.min is not None:
        place = float(np.interp(bound.min, edges, range(len(edges))))
        found.append((place, f"keep from {_short(bound.min)}"))
    if bound.max is not None:  # what is there is kept: the line comes after it
        place = min(int(np.searchsorted(edges, bound.max, side="right")), len(edges) - 1)
        found.append((place, f"keep up to {_short(bound.max)}"))
    for place, label in found:
        left = place * step < WIDTH / 2
        text = {"text_x": place * step + (5 if left else -5), "side": "start" if left else "end"}
        yield {"x": place * step, "label": label} | text


def _bin(low: float, high: float, single: bool) -> str:
    return _short(low) if single else f"{_short(low)} to {_short(high)}"


def _short(number: float) -> str:
    """A number for an axis."""
    if abs(number) >= 10_000:
        return f"{number / 1000:.3g}k"
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:.3g}"


LINES = (640, 190)  # width and height of a plot of lines


@dataclass(frozen=True)
class Axes:
    """A linear map from values to pixels, and its ticks."""

    x: tuple[float, float]
    y: tuple[float, float]

    def place(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a point; y grows upwards."""
        (left, right), (low, high) = self.x, self.y
        across, up = (x - left) / (right - left or 1), (y - low) / (high - low or 1)
        return across * LINES[0], (1 - up) * LINES[1]

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """SVG path data through the points."""
        placed = [self.place(x, y) for x, y in points]
        return "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in placed) if placed else ""

    def ticks(self) -> Table:
        """Places and labels along both axes."""
        return {
            "x": [(self.place(v, 0)[0], _short(v)) for v in _round_values(*self.x)],
            "y": [(self.place(0, v)[1], _short(v)) for v in _round_values(*self.y)],
        }


def _round_values(low: float, high: float) -> list[float]:
    """From three to seven round numbers from `low` to `high`."""
    step = _round_step((high - low) / 5 or 1)
    return [round(float(k * step), 10) for k in np.arange(np.ceil(low / step), high / step + 1e-9)]


def _round_step(rough: float) -> float:
    """The least of 1, 2 and 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** np.floor(np.log10(rough))
    return float(power * next(m for m in (1, 2, 5, 10, 20) if m * power >= rough))


def _deviation_plot(lines: Mapping[str, NDArray[np.float64]]) -> Table:
    """How far each corpus is ahead of its share, by position, with the bound of one sequence."""
    length = max((len(line) for line in lines.values()), default=0)
    axes = Axes((1, max(length, 2)), (-1.25, 1.25))
    return {
        "series": [
            {"corpus": name, "path": axes.path(_envelope(line))} for name, line in lines.items()
        ],
        "bounds": [axes.place(0, bound)[1] for bound in (1, -1)],
        "zero": axes.place(0, 0)[1],
        "ticks": axes.ticks(),
    }


def _envelope(line: NDArray[np.float64]) -> Iterator[tuple[float, float]]:
    """The points of a line; of a long one, the lowest and highest of each stretch."""
    step = -(-len(line) // POINTS)
    for start in range(0, len(line), step or 1):
        stretch = line[start : start + step]
        for value in stretch if step == 1 else (stretch.min(), stretch.max()):
            yield start + 1, float(value)


def _training(file: Location) -> Table | None:
    """The training curve, if the run was trained on: nats a target by step."""
    try:
        lines = [json.loads(line) for line in storage.read_bytes(file).splitlines()]
    except FileNotFoundError:
        return None
    series = {
        key: [(line["step"], line[key]) for line in lines if np.isfinite(line.get(key, np.nan))]
        for key in ("loss", "held_out_loss")
    }
    points = [point for found in series.values() for point in found]
    if not points:
        return None
    steps, losses = zip(*points, strict=True)
    margin = (max(losses) - min(losses)) * 0.06 or 0.5
    axes = Axes((0, max(*steps, 1)), (min(losses) - margin, max(losses) + margin))
    placed = {key: [axes.place(x, y) for x, y in found] for key, found in series.items()}
    rates = [line["tokens_per_second"] for line in lines if "tokens_per_second" in line]
    return {
        "paths": {key: axes.path(found) for key, found in series.items()},
        "points": placed,
        "series": series,
        "ticks": axes.ticks(),
        "steps": max(steps),
        "tokens_per_second": float(np.median(rates)) if rates else None,
    }


# The page


def safe_link(url: str | None) -> str | None:
    """`url` if a browser may be sent there: http or https, with a host, and not a book."""
    if len(url or "") > LINK_CHARACTERS:
        return None
    try:
        parts = urlsplit(url or "")
    except ValueError:  # "http://[" and its like
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:,.1f} TB"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _money(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 1 else f"${dollars:.2g}"


FORMATS: dict[str, Callable[..., Any]] = {
    "number": "{:,}".format,
    "percent": _percent,
    "bytes": _bytes,
    "money": _money,
    "clip": _clip,
    "link": safe_link,
}


def _render(page: Table) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FORMATS
    return environment.get_template(REPORT).render(page)
