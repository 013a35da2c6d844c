"""Documents become sequences: nothing is lost, and no order but that of the ids shows."""

import hashlib
import io
import random
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from configs.reading import ConfigError
from pipelines import mix
from pipelines.config.recipe import Mix
from pipelines.mix import Source, cut_documents, pack_pieces
from pipelines.stage import Place
from shards import ledger, schema, tokens
from shards.images import store_images
from shards.loader import open_shards
from shards.statistics import describe_shards
from shards.storage import read_json, read_table, write_json, write_table
from shards.verify import verify
from tests.pipelines.by_hand import run_stage, source, write_stage

TOKENIZER = tokens.load_tokenizer()
MIX = Mix(weights={"text": 1}, seq_len=32, image_tokens=8, max_images=2, documents_per_partition=10)
text = schema.text_part


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8 + number), "red").save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a download of four images, and its index for part 0."""
    folder = tmp_path_factory.mktemp("run") / "download"
    replies = [(f"http://a.example/{n}.png", picture(n), None) for n in range(4)]
    replies.append(("http://a.example/none.png", None, "http_404"))
    index = store_images(replies, folder / "store" / "a.tar", "store/a.tar")
    write_table(folder / "index" / "part-00000.parquet", index)
    return folder


@pytest.fixture(scope="session")
def index(store: Path) -> pa.Table:
    return read_table(store / "index" / "part-00000.parquet")


def page(name: str, *parts: Any) -> dict[str, Any]:
    """A document of texts and, for numbers, images."""
    shas = [hashlib.sha256(picture(n)).hexdigest() for n in range(4)]
    made = [
        text(p)
        if isinstance(p, str)
        else schema.image_part(f"http://a.example/{p}.png", sha256=shas[p])
        for p in parts
    ]
    return schema.document("web", f"http://a.example/{name}", made, licence="CC0-1.0")


def words(count: int) -> str:
    return " ".join(f"word{i}" for i in range(count))


def count(value: str) -> int:
    return int(tokens.count_tokens(TOKENIZER, [value])[0])


part = st.one_of(st.integers(0, 3), st.integers(0, 30).map(words), st.text("ab \n世", max_size=60))


@given(st.lists(st.lists(part, max_size=6), max_size=4))
def test_pieces_show_every_part_once_in_order_with_what_it_costs(
    index: pa.Table, documents: list[list[Any]]
):
    rows = [page(str(i), *parts) for i, parts in enumerate(documents)]
    pieces = cut_documents(schema.documents(rows), index, MIX)
    for document in rows:
        mine = [p for p in pieces if p["segment"]["id"] == document["id"]]
        assert [p["row"] for p in mine] == list(range(len(mine)))
        shown = [part for p in mine for part in p["segment"]["parts"]]
        for piece in mine:
            parts = piece["segment"]["parts"]
            assert piece["tokens"] == 1 + sum(part["tokens"] for part in parts) <= MIX.seq_len
            assert piece["images"] == sum(part["sha256"] is not None for part in parts) <= 2
        for packed in shown:
            image = packed["text"] is None
            assert packed["tokens"] == (MIX.image_tokens if image else count(packed["text"]))
        # A text that fits stands whole; the pieces of a longer one join to it.
        assert joined(shown) == joined(document["parts"])


def joined(parts: list[dict[str, Any]]) -> list[str]:
    """Texts between images as one string each, images by their hash."""
    found = [""]
    for part in parts:
        if part["text"] is None:
            found += [part["sha256"] if "sha256" in part else part["image"], ""]
        else:
            found[-1] += part["text"]
    return found


def test_a_part_that_is_longer_than_a_sequence_is_cut_and_joins_again(index: pa.Table):
    long = words(60)
    assert count(long) > 2 * MIX.seq_len
    pieces = cut_documents(schema.documents([page("1", "Before.", long, 0)]), index, MIX)
    texts = [p["text"] for piece in pieces for p in piece["segment"]["parts"] if p["text"]]
    assert texts[0] == "Before."
    assert "".join(texts[1:]) == long
    assert [piece["segment"]["first_part"] for piece in pieces] == [0] + [1] * (len(pieces) - 1)
    assert len(pieces) >= 3


def test_a_piece_carries_what_a_sequence_says_of_its_document(index: pa.Table):
    document = page("1", "A cat.", 2)
    (piece,) = cut_documents(schema.documents([document]), index, MIX)
    segment = piece["segment"]
    assert {name: segment[name] for name in ("id", "source", "url", "licence")} == {
        name: document[name] for name in ("id", "source", "url", "licence")
    }
    row = index.to_pylist()[2]
    image = {name: row[name] for name in ("sha256", "format", "tar", "offset", "length")}
    assert segment["parts"][1] == {"text": None, "tokens": 8, **image}


def packed(index: pa.Table, *documents: dict[str, Any]) -> tuple[list[dict[str, Any]], pa.Table]:
    pieces = cut_documents(schema.documents(documents), index, MIX)
    keyed = [piece | {"part": 0, "key": i} for i, piece in enumerate(pieces)]
    table = pa.Table.from_pylist(keyed, schema=mix.PIECE)
    sequences, drops = pack_pieces(table, "web", MIX)
    assert sequences.schema.equals(schema.SEQUENCE)
    return sequences.to_pylist(), drops


def test_pieces_share_sequences_and_the_sums_are_theirs(index: pa.Table):
    short, shown, long = page("1", "A cat."), page("2", 0, 1), page("3", words(9))
    sequences, drops = packed(index, short, shown, long, page("4", 2))
    ids = [[segment["id"] for segment in s["segments"]] for s in sequences]
    assert ids[0][:2] == [short["id"], shown["id"]]
    for s in sequences:
        parts = [part for segment in s["segments"] for part in segment["parts"]]
        assert s["tokens"] == sum(p["tokens"] for p in parts) + len(s["segments"]) <= MIX.seq_len
        assert s["images"] == sum(p["sha256"] is not None for p in parts) <= MIX.max_images
        assert s["corpus"] == "web"
    assert drops.num_rows == 0


@pytest.mark.parametrize("nothing", [[], [""], ["", ""]])
def test_a_document_with_nothing_in_it_is_dropped_as_such(index: pa.Table, nothing: list[str]):
    empty, full = page("1", *nothing), page("2", "A cat.")
    sequences, drops = packed(index, empty, full)
    assert [[s["id"] for s in row["segments"]] for row in sequences] == [[full["id"]]]
    ((row,)) = drops.to_pylist()
    assert (row["id"], row["unit"], row["reason"]) == (empty["id"], "document", "no_content")


def test_no_pieces_are_no_sequences(index: pa.Table):
    assert packed(index) == ([], schema.DROP.empty_table())


# Which part holds what


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1), st.integers(1, 4))
def test_parts_are_numbered_corpus_by_corpus_epoch_by_epoch_slice_by_slice(
    slices: dict[str, int], epochs: int
):
    layout = mix.Layout(slices, epochs)
    parts = [
        (corpus, epoch, k)
        for corpus, count in slices.items()
        for epoch in range(epochs)
        for k in range(count)
    ]
    assert layout.parts == len(parts)
    for number, (corpus, epoch, k) in enumerate(parts):
        assert layout.first(corpus, epoch) + k == number
        assert layout.group_and_epoch(number) == (corpus, epoch)
    with pytest.raises(IndexError):
        layout.group_and_epoch(len(parts))


# Whole stages


def pack(
    tmp_path: Path, parts: list[list[dict[str, Any]]], options: Mix = MIX, corpus: str = "text"
) -> Place:
    inputs = [write_stage(tmp_path / corpus, [schema.documents(part) for part in parts])]
    sources = [Source(corpus, source(corpus), None)]
    return run_stage(mix.pack_stage("pack", options, 1, sources), tmp_path / "pack", inputs)


def sequences(place: Place) -> list[list[tuple[str, int]]]:
    """The (id, first part) of the segments of each sequence, in the order of the corpus."""
    files = sorted((place.out / "sequences").glob("*.parquet"))
    rows = [row for file in files for row in read_table(file).to_pylist()]
    return [[(s["id"], s["first_part"]) for s in row["segments"]] for row in rows]


DOCUMENTS = [page(str(i), *([words(3 + i % 9)] * (1 + i % 4))) for i in range(45)]


def test_the_sequences_of_a_corpus_do_not_depend_on_its_parts(tmp_path: Path):
    one = pack(tmp_path / "one", [DOCUMENTS])
    shuffled = random.Random(3).sample(DOCUMENTS, len(DOCUMENTS))
    many = pack(tmp_path / "many", [shuffled[:7], [], shuffled[7:8], shuffled[8:]])
    assert sequences(many) == sequences(one)
    assert one.parts == 5  # 45 documents, 10 to a partition
    names = [f"sequences/{ledger.part_name(i)}.parquet" for i in range(5)]
    assert all((one.out / n).read_bytes() == (many.out / n).read_bytes() for n in names)


def test_a_seed_gives_another_order_of_the_same_documents(tmp_path: Path):
    inputs = [write_stage(tmp_path / "text", [schema.documents(DOCUMENTS)])]
    sources = [Source("text", source("text"), None)]
    found = [
        sequences(run_stage(mix.pack_stage("pack", MIX, s, sources), tmp_path / str(s), inputs))
        for s in (1, 2)
    ]
    assert found[0] != found[1]
    assert set(chain(*found[0])) == set(chain(*found[1]))


def test_every_document_is_accounted_for_once(tmp_path: Path):
    empty = page("empty", "")
    place = pack(tmp_path, [DOCUMENTS, [empty]], MIX.model_copy(update={"max_epochs": 3}))
    assert ledger.read_counts(place.out) == ledger.Counts(
        {"document": 46}, {"document": 45}, {"document": {"no_content": 1}}
    )
    assert ledger.read_drops(place.out)["id"].to_pylist() == [empty["id"]]


def test_two_epochs_show_every_document_twice_in_another_order(tmp_path: Path):
    once = sequences(pack(tmp_path / "once", [DOCUMENTS]))
    place = pack(tmp_path / "twice", [DOCUMENTS], MIX.model_copy(update={"max_epochs": 2}))
    both = sequences(place)
    first, second = both[: len(once)], both[len(once) :]
    assert first == once
    order = [list(dict.fromkeys(i for s in epoch for i, _ in s)) for epoch in (first, second)]
    assert sorted(order[0]) == sorted(order[1]) == sorted(d["id"] for d in DOCUMENTS)
    assert order[0] != order[1]
    assert sorted(chain(*first)) == sorted(chain(*second))
    assert place.parts == 10


def write_shards(tmp_path: Path, options: Mix, index: Path) -> tuple[Place, Place]:
    """Pack and mix ten pictures with captions and all the documents."""
    pairs = [page(f"p{i}", i % 4, f"Picture {i}.") for i in range(10)]
    inputs = [
        write_stage(tmp_path / "captions", [schema.documents(pairs)]),
        write_stage(tmp_path / "text", [schema.documents(DOCUMENTS)]),
    ]
    (tmp_path / "download").symlink_to(index)
    sources = [
        Source("text", source("text"), None),
        Source("captions", source("captions"), source("download")),
        Source("unused", source("unused"), None),
    ]
    packed, shards = mix.stages(options, 1, sources, resized=False)
    place = run_stage(packed, tmp_path / "pack", inputs, [tmp_path / "download"])
    return place, run_stage(shards, tmp_path / "shards", [], [place.out])


def test_sequences_without_a_place_in_the_mixture_are_surplus(tmp_path: Path, store: Path):
    weights: dict[str, float] = {"captions": 1, "text": 3}
    options = MIX.model_copy(update={"weights": weights, "sequences_per_shard": 4})
    packed, place = write_shards(tmp_path, options, store)
    available = {
        name: sum(n for _, n in parts)
        for name, parts in read_json(packed.out / mix.SEQUENCES).items()
    }
    shards = open_shards(place.out)
    assert verify(place.out) == []
    used = {name: sums["sequences"] for name, sums in shards.manifest["corpora"].items()}
    assert shards.manifest["stopped_by"] in used
    assert used[shards.manifest["stopped_by"]] == available[shards.manifest["stopped_by"]]

    counts = ledger.read_counts(place.out)
    assert counts.read == {"sequence": sum(available.values())}
    assert counts.kept == {"sequence": len(shards)}
    left = [f"{n}:{i}" for n in sorted(used) for i in range(used[n], available[n])]
    drops = ledger.read_drops(place.out).to_pylist()
    assert sorted(row["id"] for row in drops) == sorted(left)
    assert left
    assert {row["reason"] for row in drops} == {"surplus"}
    assert {row["detail"] for row in drops} == {f"{shards.manifest['stopped_by']} ran out"}


def test_the_shards_hold_the_packed_sequences_in_order(tmp_path: Path, store: Path):
    options = MIX.model_copy(
        update={"weights": {"captions": 1.0, "text": 3.0}, "sequences_per_shard": 3}
    )
    packed, place = write_shards(tmp_path, options, store)
    given: dict[str, list[Any]] = {"captions": [], "text": []}
    for file in sorted((packed.out / "sequences").glob("*.parquet")):
        for row in read_table(file).to_pylist():
            given[row["corpus"]].append([s["id"] for s in row["segments"]])
    for corpus, due in given.items():
        mine = [s for s in open_shards(place.out).read() if s.corpus == corpus]
        found = [[segment["id"] for segment in s.segments] for s in mine]
        assert found == due[: len(found)]
    with_images = [s for s in open_shards(place.out).read() if s.images]
    known = {picture(n) for n in range(4)}
    assert with_images and all(known.issuperset(s.images.values()) for s in with_images)


def test_sources_with_weights_are_packed_apart_and_mixed_by_them(tmp_path: Path, store: Path):
    pairs = [
        page(f"{name}{i}", i % 4, f"Picture {i}.") | {"source": name}
        for name, count in (("web", 60), ("vecap", 30))
        for i in range(count)
    ]
    inputs = [
        write_stage(
            tmp_path / "captions", [schema.documents(pairs[:45]), schema.documents(pairs[45:])]
        ),
        write_stage(tmp_path / "text", [schema.documents(DOCUMENTS)]),
    ]
    (tmp_path / "download").symlink_to(store)
    weights = {"web": 4.0, "vecap": 1.0}
    sources = [
        Source("captions", source("captions"), source("download"), weights),
        Source("text", source("text"), None),
    ]
    update = {"weights": {"captions": 3.0, "text": 1.0}, "sequences_per_shard": 5}
    packing, mixing = mix.stages(MIX.model_copy(update=update), 1, sources, resized=False)
    index = read_table(store / "index" / "part-00000.parquet")
    write_table(store / "index" / "part-00001.parquet", index)
    packed = run_stage(packing, tmp_path / "pack", inputs, [tmp_path / "download"])
    assert set(read_json(packed.out / mix.SEQUENCES)) == {"captions/vecap", "captions/web", "text"}
    place = run_stage(mixing, tmp_path / "shards", [], [packed.out])

    assert verify(place.out) == []
    shards = open_shards(place.out)
    assert shards.manifest["sources"] == {"captions": weights}
    found = [{g["source"] for g in s.segments} for s in shards.read() if s.corpus == "captions"]
    assert all(len(names) == 1 for names in found)
    order = [name for names in found for name in names]
    for n in range(1, len(order) + 1):
        assert abs(order[:n].count("vecap") - n / 5) < 1
    weighted = describe_shards(place.out)["weighted"]["captions"]
    assert weighted["vecap"]["weight"] == 0.2
    assert weighted["vecap"]["sequences"] == order.count("vecap")
    counts = ledger.read_counts(place.out)
    available = {n: sum(r for _, r in p) for n, p in read_json(packed.out / mix.SEQUENCES).items()}
    assert counts.read == {"sequence": sum(available.values())}
    write_json(place.out / "manifest.json", shards.manifest | {"sources": {"captions": {"web": 1}}})
    assert any("captions/vecap" in problem.what for problem in verify(place.out))


def test_a_corpus_without_a_sequence_is_named(tmp_path: Path):
    write_json(tmp_path / "pack" / mix.SEQUENCES, {"captions": [[0, 0]], "text": [[1, 5]]})
    options = MIX.model_copy(update={"weights": {"captions": 1.0, "text": 1.0}})
    stage = mix.shards_stage("shards", source("pack"), options, 1, {}, resized=False)
    with pytest.raises(ConfigError, match="nothing to mix, since captions has no sequence"):
        run_stage(stage, tmp_path / "shards", [], [tmp_path / "pack"])
