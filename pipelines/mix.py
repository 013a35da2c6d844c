"""The mixture: documents are packed into sequences, and sequences of all corpora into shards.

`pack` shuffles each corpus once: documents go, whole, to the partition that their keyed hash
falls into, and a partition is packed in hash order. So the order of a corpus is a permutation
that depends on ids and the seed alone, and the sequences of a corpus are numbered through its
partitions. `shards` then needs no shuffle: position *i* of the mixture is a corpus and a number
by arithmetic (`mixers.plan`), and a shard reads the rows that it holds.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from math import ceil
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from configs.reading import ConfigError
from mixers import packing
from mixers.plan import Mixture, group_name, mixture
from pipelines.config.recipe import Mix
from pipelines.images import read_index
from pipelines.stage import MOST_PARTITIONS, Pieces, Place, Stage, by_part, scatter
from shards import ledger, schema, tar, tokens
from shards.images import read_images
from shards.ledger import part_name
from shards.storage import (
    Location,
    in_parallel,
    read_json,
    read_rows,
    read_table,
    row_count,
    write_json,
)


@dataclass(frozen=True)
class Source:
    """Where a corpus comes from: the stage of its documents and that of its images, if any."""

    corpus: str
    documents: Stage
    images: Stage | None
    # Of its sources; none if they are mixed as they come.
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """What is packed apart: the corpus, or each source that has a weight."""
        return [group_name(self.corpus, name) for name in self.weights] or [self.corpus]


def stages(mix: Mix, seed: int, sources: Sequence[Source], *, resized: bool) -> list[Stage]:
    """Pack every corpus of the mixture, then write the shards."""
    used = sorted((s for s in sources if s.corpus in mix.weights), key=lambda s: s.corpus)
    packed = pack_stage("pack", mix, seed, used)
    weights = {source.corpus: dict(source.weights) for source in used if source.weights}
    return [packed, shards_stage("shards", packed, mix, seed, weights, resized=resized)]


# Packing

Corpora = Mapping[str, Sequence[str]]  # by name the groups that are packed apart


def pack_stage(name: str, mix: Mix, seed: int, sources: Sequence[Source]) -> Stage:
    """Sequences of each corpus, in partitions of the order of its documents."""
    corpora = {source.corpus: source.groups for source in sources}
    pictured = [source.corpus for source in sources if source.images]
    config = mix.model_dump(exclude={"weights", "sequences_per_shard"})
    return Stage(
        name,
        partial(_pack, mix=mix, seed=seed, corpora=corpora, pictured=pictured),
        [config, seed, corpora, tokens.tokenizer_identity(mix.tokenizer)],
        ("pipelines.mix",),
        inputs=tuple(source.documents.name for source in sources),
        lookups=tuple(source.images.name for source in sources if source.images),
        parts=lambda inputs: _layout(inputs, corpora, mix).parts,
        finish=partial(_count_sequences, mix=mix, corpora=corpora),
    )


@dataclass(frozen=True)
class Layout:
    """Which slice of which epoch of which group each part of the packed sequences holds."""

    slices: dict[str, int]  # by group: how many slices each of its epochs is cut into
    epochs: int

    @property
    def parts(self) -> int:
        """The number of parts: groups one after the other, epoch by epoch, slice by slice."""
        return self.epochs * sum(self.slices.values())

    def first(self, group: str, epoch: int) -> int:
        """The part of the first slice of an epoch of a group."""
        names = list(self.slices)
        before = sum(self.slices[name] for name in names[: names.index(group)])
        return before * self.epochs + epoch * self.slices[group]

    def group_and_epoch(self, part: int) -> tuple[str, int]:
        """What a part holds a slice of."""
        for group, slices in self.slices.items():
            if part < slices * self.epochs:
                return group, part // slices
            part -= slices * self.epochs
        raise IndexError(part)


def _layout(inputs: Sequence[Location], corpora: Corpora, mix: Mix) -> Layout:
    """The parts of the packed sequences, by the sizes of their corpora.

    How many documents each source has is not known, so each has slices for all of the corpus.
    """
    kept = [ledger.read_counts(folder).kept.get("document", 0) for folder in inputs]
    sizes = [max(1, ceil(documents / mix.documents_per_partition)) for documents in kept]
    each = zip(corpora.values(), sizes, strict=True)
    return Layout({group: size for groups, size in each for group in groups}, mix.max_epochs)


def _pack(
    parts: Any,
    place: Place,
    mix: Mix,
    seed: int,
    corpora: Corpora,
    pictured: Sequence[str],
) -> Any:
    layout = _layout(place.inputs, corpora, mix)
    images = dict(zip(pictured, place.lookups, strict=True))
    given = [
        Given(corpus, folder, images.get(corpus), ledger.part_count(folder))
        for corpus, folder in zip(corpora, place.inputs, strict=True)
    ]
    width = ceil(place.parts / MOST_PARTITIONS)
    shared = {"given": given, "place": place, "mix": mix, "seed": seed, "layout": layout}
    pieces = (
        parts.pipeline
        | "documents" >> beam.Create(range(sum(g.parts for g in given)), reshuffle=False)
        | "balance" >> beam.Reshuffle()
        | "cut" >> beam.FlatMap(_spread, **shared, width=width)
    )
    bins = parts | "bins" >> beam.Map(_bin, width)
    return by_part(bins, pieces, PIECE) | "pack" >> beam.FlatMap(_pack_bin, place, mix, layout)


def _bin(part: int, width: int) -> int:
    """Neighbouring parts share a bin where they outnumber the partitions of a shuffle."""
    return part // width


@dataclass(frozen=True)
class Given:
    """The documents of one corpus, and where their images are."""

    corpus: str
    documents: Location
    images: Location | None
    parts: int


PIECE = pa.schema(
    [
        ("part", pa.int32()),  # that packs it
        ("key", pa.uint64()),  # where the document stands in the order of its corpus
        ("document", pa.int64()),  # where the document was read: tells copies with one id apart
        ("row", pa.int32()),  # where the piece stands in its document
        ("tokens", pa.int64()),
        ("images", pa.int64()),
        ("segment", schema.SEGMENT),
    ]
)


@cache
def _tokenizer(name: str) -> Any:
    return tokens.load_tokenizer(name)


def _spread(
    number: int,
    given: Sequence[Given],
    place: Place,
    mix: Mix,
    seed: int,
    layout: Layout,
    width: int,
) -> Pieces:
    """The pieces of the documents of one part, by the bin of the part that packs them."""
    source, part = _numbered(number, given)
    with place.clock():
        documents = read_table(source.documents / "documents" / f"{part_name(part)}.parquet")
        index = schema.IMAGE.empty_table()
        if source.images:
            index = _located(source.images, part, place.run)
        pieces = cut_documents(documents, index, mix)
    ids = [piece["segment"]["id"] for piece in pieces]
    groups = [_group(source.corpus, piece, layout) for piece in pieces]
    found: Pieces = []
    for epoch in range(mix.max_epochs):
        keys = packing.order_keys(ids, seed, epoch)
        targets = _targets(keys, groups, layout, epoch)
        keyed = [
            piece | {"part": to, "key": int(key), "document": (part << 32) + piece["document"]}
            for piece, key, to in zip(pieces, keys, targets.tolist(), strict=True)
        ]
        found += scatter(pa.Table.from_pylist(keyed, schema=PIECE), targets // width)
    return place.sent(found)


def _group(corpus: str, piece: Mapping[str, Any], layout: Layout) -> str:
    """What a piece is packed with: its corpus, or its source where that has a weight."""
    return corpus if corpus in layout.slices else group_name(corpus, piece["segment"]["source"])


def _targets(
    keys: NDArray[np.uint64], groups: Sequence[str], layout: Layout, epoch: int
) -> NDArray[np.int64]:
    """The part that packs each piece in an epoch."""
    names, which = np.unique(np.array(groups, object).astype(str), return_inverse=True)
    targets = np.zeros(len(keys), np.int64)
    for number, name in enumerate(names.tolist()):
        mine = which == number
        slices = packing.partitions(keys[mine], layout.slices[name])
        targets[mine] = layout.first(name, epoch) + slices
    return targets


def _numbered(number: int, given: Sequence[Given]) -> tuple[Given, int]:
    """The corpus and its part that a number stands for, all corpora counted through."""
    for source in given:
        if number < source.parts:
            return source, number
        number -= source.parts
    raise IndexError(number)


def _located(images: Location, part: int, run: Location) -> pa.Table:
    """The index of a part's images, with the paths of tars below the run's folder."""
    index = read_index(images, part)
    below = pa.scalar(str(images).removeprefix(f"{run}/"))
    inside = pc.binary_join_element_wise(below, index["tar"], "/")
    elsewhere = pc.match_substring_regex(index["tar"], "^/|://")  # adopted, where they are
    return schema.with_column(index, "tar", pc.if_else(elsewhere, index["tar"], inside))


def cut_documents(documents: pa.Table, index: pa.Table, mix: Mix) -> list[dict[str, Any]]:
    """Rows of `PIECE`, without keys, that together show every part of every document once.

    `document` counts within `documents`.

    `index` holds the `schema.IMAGE` rows of the documents' images.
    """
    places = {row["sha256"]: row for row in index.to_pylist() if row["reason"] is None}
    rows = documents.to_pylist()
    counts = iter(_token_counts(rows, mix.tokenizer))
    pieces = []
    for number, document in enumerate(rows):
        parts = [
            (place, packed)
            for place, part in enumerate(document["parts"])
            for packed in _packed(part, counts, places, mix)
        ]
        cuts = packing.cut(
            [p["tokens"] for _, p in parts],
            [int(p["sha256"] is not None) for _, p in parts],
            seq_len=mix.seq_len,
            max_images=mix.max_images,
        )
        for row, (first, last) in enumerate(cuts or [(0, 0)]):
            piece = _piece(document, parts[first:last])
            pieces.append(piece | {"document": number, "row": row})
    return pieces


def _token_counts(rows: Sequence[Mapping[str, Any]], tokenizer: str) -> list[int]:
    texts = [p["text"] for row in rows for p in row["parts"] if p["text"] is not None]
    return [int(n) for n in tokens.count_tokens(_tokenizer(tokenizer), texts)]


def _packed(
    part: Mapping[str, Any], counts: Iterator[int], places: Mapping[str, Any], mix: Mix
) -> Iterator[dict[str, Any]]:
    """A part as `schema.PACKED_PART`, in several pieces if it is too long for a sequence."""
    nothing = dict.fromkeys(field.name for field in schema.PACKED_PART)
    if part["text"] is None:
        place = places[part["image"]]
        found = {name: place[name] for name in ("sha256", "format", "tar", "offset", "length")}
        yield nothing | found | {"tokens": mix.image_tokens}
        return
    count, limit = next(counts), mix.seq_len - 1
    texts = [(part["text"], count)]
    if count > limit:
        texts = tokens.split_text(_tokenizer(mix.tokenizer), part["text"], limit)
    yield from (nothing | {"text": text, "tokens": n} for text, n in texts)


def _piece(
    document: Mapping[str, Any], parts: Sequence[tuple[int, dict[str, Any]]]
) -> dict[str, Any]:
    shown = [part for _, part in parts]
    about = {name: document[name] for name in ("id", "source", "url", "licence", "extra")}
    return {
        "tokens": sum(part["tokens"] for part in shown) + 1,
        "images": sum(part["sha256"] is not None for part in shown),
        "segment": about | {"first_part": parts[0][0] if parts else 0, "parts": shown},
    }


def _pack_bin(
    group: tuple[int, Iterable[pa.Table]], place: Place, mix: Mix, layout: Layout
) -> Iterator[int]:
    number, tables = group
    width = ceil(place.parts / MOST_PARTITIONS)
    pieces = pa.concat_tables(tables)
    for part in range(number * width, min((number + 1) * width, place.parts)):
        with place.clock():
            if not place.has(part):
                mine = pieces.filter(pc.equal(pieces["part"], part))
                order = [(name, "ascending") for name in ("key", "document", "row")]
                ordered = mine.combine_chunks().sort_by(order)
                _write_packed(place, part, ordered, *layout.group_and_epoch(part), mix)
        yield part


def _write_packed(
    place: Place, part: int, pieces: pa.Table, group: str, epoch: int, mix: Mix
) -> None:
    sequences, drops = pack_pieces(pieces, group.partition("/")[0], mix)
    # A document is accounted for once: in the first epoch, by its first piece.
    read = int((np.asarray(pieces["row"]) == 0).sum())
    if epoch > 0:
        read, drops = 0, schema.DROP.empty_table()
    kept = {"document": read - drops.num_rows}
    place.write(part, sequences, drops, read={"document": read}, kept=kept, kind="sequences")


def pack_pieces(pieces: pa.Table, corpus: str, mix: Mix) -> tuple[pa.Table, pa.Table]:
    """Sequences (`schema.SEQUENCE`) of the pieces, in their order, and drops of empty documents."""
    costs, images = np.asarray(pieces["tokens"]), np.asarray(pieces["images"])
    empty = pieces.filter(pa.array(costs <= 1))["segment"].to_pylist()
    drops = [
        dict.fromkeys(schema.DROP.names)
        | {"id": s["id"], "url": s["url"]}
        | {"unit": "document", "reason": "no_content", "kind": "dropped"}
        for s in empty
    ]
    keep = costs > 1
    costs, images = costs[keep], images[keep]
    assigned = packing.pack(costs, images, seq_len=mix.seq_len, max_images=mix.max_images)
    order = np.argsort(assigned, kind="stable")
    segments = pieces["segment"].combine_chunks().filter(pa.array(keep)).take(pa.array(order))
    offsets = np.concatenate([[0], np.bincount(assigned).cumsum()]).astype(np.int32)
    n = len(offsets) - 1
    columns = [
        pa.array([corpus] * n, pa.string()),
        pa.array(np.bincount(assigned, costs).astype(np.int32)),
        pa.array(np.bincount(assigned, images).astype(np.int32)),
        pa.ListArray.from_arrays(pa.array(offsets), segments),
    ]
    return pa.table(columns, schema=schema.SEQUENCE), pa.Table.from_pylist(
        drops, schema=schema.DROP
    )


SEQUENCES = "sequences.json"


def _count_sequences(place: Place, mix: Mix, corpora: Corpora) -> None:
    """Write how many sequences each part of each group holds, for the plan."""
    layout = _layout(place.inputs, corpora, mix)
    found: dict[str, list[tuple[int, int]]] = {group: [] for group in layout.slices}
    folder = place.out / "sequences"
    files = [folder / f"{part_name(part)}.parquet" for part in range(place.parts)]
    for part, rows in enumerate(in_parallel(row_count, files)):
        found[layout.group_and_epoch(part)[0]].append((part, rows))
    write_json(place.out / SEQUENCES, found)


# Shards


SourceWeights = Mapping[str, Mapping[str, float]]  # by corpus


def shards_stage(
    name: str, packed: Stage, mix: Mix, seed: int, sources: SourceWeights, *, resized: bool
) -> Stage:
    """WebDataset shards of the mixture, with their manifest."""
    config = mix.model_dump(include={"weights", "sequences_per_shard"})
    plan = partial(_plan, weights=mix.weights, sources=sources)
    return Stage(
        name,
        partial(_write_shards, mix=mix, plan=plan),
        [config, sources, resized],
        ("pipelines.mix",),
        lookups=(packed.name,),
        parts=lambda folders: ceil(plan(folders[0]).total / mix.sequences_per_shard),
        finish=partial(
            _write_manifest, mix=mix, seed=seed, plan=plan, sources=sources, resized=resized
        ),
    )


@cache
def _packed_parts(packed: Location) -> dict[str, list[tuple[int, int]]]:
    """By group, its parts and how many sequences each holds; read once a process."""
    found: dict[str, list[tuple[int, int]]] = read_json(packed / SEQUENCES)
    return found


MakePlan = Callable[[Location], Mixture]


def _plan(packed: Location, weights: Mapping[str, float], sources: SourceWeights) -> Mixture:
    """The mixture of what was packed; raises `ConfigError` if there is nothing to mix."""
    found = _packed_parts(packed)
    available = {name: sum(n for _, n in parts) for name, parts in found.items()}
    plan = mixture(weights, sources, available)
    if plan.total == 0:
        raise ConfigError(
            f"mix: there is nothing to mix, since {plan.stopped_by} has no sequence; "
            "its ledger says which stage dropped its documents"
        )
    return plan


def _write_shards(parts: Any, place: Place, mix: Mix, plan: MakePlan) -> Any:
    return parts | "write" >> beam.Map(_write_shard, place, mix, plan)


def _write_shard(part: int, place: Place, mix: Mix, make_plan: MakePlan) -> int:
    with place.clock():
        if not place.has(part):
            packed = place.lookups[0]
            plan, found = make_plan(packed), _packed_parts(packed)
            first = part * mix.sequences_per_shard
            last = min(first + mix.sequences_per_shard, plan.total)
            mixed = _mixed(packed, plan, found, first, last)
            path = place.out / f"mixwright-{part:05d}.tar"
            info = tar.write_shard(path, mixed, partial(_image_bytes, place.run))
            write_json(place.out / "info" / f"{part_name(part)}.json", asdict(info))
            surplus = _surplus(plan, found, part, place.parts)
            kept = {"sequence": info.sequences}
            read = {"sequence": info.sequences + surplus.num_rows}
            place.count("bytes", info.bytes)
            place.write(part, None, surplus, read=read, kept=kept)
    return part


def _mixed(
    packed: Location, plan: Mixture, found: Mapping[str, Any], first: int, last: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The sequences at positions `first` up to, not including, `last`."""
    start, stop = plan.used(first), plan.used(last)
    rows = {name: _sequences(packed, found[name], start[name], stop[name]) for name in start}
    for i, name in enumerate(plan.groups(first, last)):
        yield first + i, next(rows[name])


def _sequences(
    packed: Location, parts: Sequence[tuple[int, int]], start: int, stop: int
) -> Iterator[dict[str, Any]]:
    """Sequences `start` to `stop` of a corpus, read by row groups from the parts that hold them."""
    before = 0
    for part, count in parts:
        low, high = max(start - before, 0), min(stop - before, count)
        if low < high:
            file = packed / "sequences" / f"{part_name(part)}.parquet"
            yield from read_rows(file, low, high - low).to_pylist()
        before += count


def _image_bytes(run: Location, parts: list[dict[str, Any]]) -> list[bytes]:
    return read_images(run, pa.Table.from_pylist(parts))


def _surplus(plan: Mixture, found: Mapping[str, Any], part: int, parts: int) -> pa.Table:
    """Ledger rows of this shard's share of the sequences for which the mixture had no place."""
    rows = []
    for name, used in plan.used(plan.total).items():
        left = sum(n for _, n in found[name]) - used
        for k in range(left * part // parts, left * (part + 1) // parts):
            about = {"id": f"{name}:{used + k}", "unit": "sequence", "kind": "dropped"}
            detail = f"{plan.stopped_by} ran out"
            rows.append(about | {"reason": "surplus", "detail": detail})
    return pa.Table.from_pylist(rows, schema=schema.DROP)


def _write_manifest(
    place: Place, mix: Mix, seed: int, plan: MakePlan, sources: SourceWeights, resized: bool
) -> None:
    files = [place.out / "info" / f"{part_name(part)}.json" for part in range(place.parts)]
    infos = [tar.ShardInfo(**info) for info in in_parallel(read_json, files)]
    manifest = tar.make_manifest(
        infos,
        seq_len=mix.seq_len,
        image_tokens=mix.image_tokens,
        max_images=mix.max_images,
        tokenizer=tokens.tokenizer_identity(mix.tokenizer),
        seed=seed,
        weights=mix.weights,
        sources=sources,
        stopped_by=plan(place.lookups[0]).stopped_by,
        resized=resized,
    )
    write_json(place.out / "manifest.json", manifest)
