"""Ask a run where a record is: the answers are checked against the tars and the ledger."""

import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from shards import ledger, schema, tar
from shards.storage import read_table, write_json
from shards.why import Answer, why
from tests.shards.stages import finish, folder_of

if TYPE_CHECKING:
    from pipelines.config.recipe import Recipe


CAT, DOG = "http://a.example/cat.jpg", "http://a.example/dog.jpg"


def page(name: str, *images: str) -> dict[str, Any]:
    parts = [schema.text_part(f"About {name}."), *map(schema.image_part, images)]
    return schema.document("web", f"http://a.example/{name}", parts, file="a.warc.gz", position=9)


KEPT, SHORT, COPY, LEFT = page("kept", CAT, DOG), page("short"), page("copy"), page("left", CAT)


def write_stage(
    run: Path,
    name: str,
    kept: list[dict[str, Any]],
    drops: list[dict[str, Any]],
    *inputs: str,
) -> None:
    folder, documents = folder_of(run, name), sum(drop["unit"] == "document" for drop in drops)
    read = {"document": len(kept) + documents, "image": len(drops) - documents}
    rows = pa.Table.from_pylist(drops, schema=schema.DROP)
    ledger.write_part(
        folder, 0, schema.documents(kept), rows, read=read, kept={"document": len(kept)}
    )
    finish(run, name, inputs=dict.fromkeys(inputs, "x"))


def sequence(*documents: dict[str, Any]) -> dict[str, Any]:
    nothing = dict.fromkeys(field.name for field in schema.PACKED_PART)
    parts = [nothing | {"text": "About.", "tokens": 2}]
    about = [{name: d[name] for name in ("id", "source", "url", "licence")} for d in documents]
    segments = [a | {"first_part": 0, "parts": parts} for a in about]
    return {"corpus": "web", "tokens": 3 * len(segments), "images": 0, "segments": segments}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four pages: one in two sequences, one too short, one a copy, one for which no room was."""
    short = ledger.drop_row(SHORT, "too_short", detail="2 words")
    copy = ledger.drop_row(COPY, "duplicate_content", detail=KEPT["id"])
    dogs = [
        ledger.image_drop_row(d["id"], d["parts"][-1], "image_too_small", detail="8x8 png")
        for d in (KEPT, LEFT)
    ]
    write_stage(tmp_path, "web/extract", [KEPT, SHORT, COPY, LEFT], [])
    write_stage(tmp_path, "web/filters", [KEPT, COPY, LEFT], [short, *dogs], "web/extract")
    write_stage(tmp_path, "web/dedupe", [KEPT, LEFT], [copy], "web/filters")
    mixed = [(0, sequence(KEPT)), (1, sequence(page("other"), KEPT))]
    shards = folder_of(tmp_path, "shards")
    info = tar.write_shard(shards / "mixwright-00000.tar", mixed, lambda parts: [])
    manifest = tar.make_manifest(
        [info],
        seq_len=16,
        image_tokens=4,
        max_images=1,
        tokenizer={"name": "x", "sha256": "0"},
        seed=0,
        weights={"web": 1},
        stopped_by="captions",
    )
    write_json(shards / tar.MANIFEST, manifest)
    finish(tmp_path, "shards", inputs={"web/dedupe": "x"})
    return tmp_path


def read_from(document: dict[str, Any]) -> Answer:
    detail = "a.warc.gz at 9"
    return Answer("web/extract", document["id"], document["url"], "read", detail=detail)


def test_a_kept_document_has_every_place_that_it_stands_at(run: Path):
    image = Answer("web/filters", KEPT["id"], DOG, "image dropped", "image_too_small", "8x8 png")
    places = [
        Answer("shards", KEPT["id"], None, "in the shards", detail=f"mixwright-00000.tar, {place}")
        for place in ("sequence 0", "sequence 1")
    ]
    assert why(run, KEPT["id"]) == [read_from(KEPT), image, *places]
    assert why(run, "http://a.example/kept") == why(run, KEPT["id"])


def test_a_dropped_document_ends_with_the_rule_and_its_score(run: Path):
    dropped = Answer("web/filters", SHORT["id"], SHORT["url"], "dropped", "too_short", "2 words")
    assert why(run, "http://a.example/short") == [read_from(SHORT), dropped]


def test_a_duplicate_names_its_keeper(run: Path):
    _, fate = why(run, "http://a.example/copy")
    assert (fate.outcome, fate.reason) == ("dropped", "duplicate_content")
    assert why(run, str(fate.detail))[0].id == KEPT["id"]


def test_an_image_is_answered_for_by_every_document_that_shows_it(run: Path):
    assert [a.id for a in why(run, CAT) if a.outcome == "read"] == [KEPT["id"], LEFT["id"]]
    about_dog = why(run, DOG)
    assert {a.id for a in about_dog} == {KEPT["id"]}
    assert about_dog[1].reason == "image_too_small"


def test_a_document_for_which_there_was_no_room_is_surplus_even_if_it_lost_an_image(run: Path):
    answers = why(run, LEFT["id"])
    assert [(a.outcome, a.reason) for a in answers] == [
        ("read", None),
        ("image dropped", "image_too_small"),
        ("dropped", "surplus"),
    ]
    assert answers[-1].detail == "the mixture ended before it: captions ran out"


def test_what_a_run_never_saw_has_no_answer(run: Path):
    assert why(run, "http://b.example/") == []
    assert why(run, "web:0") == []


def test_before_the_shards_there_is_no_fate_yet(run: Path):
    (run / "shards" / ledger.STAGE_FILE).unlink()
    assert [a.outcome for a in why(run, KEPT["id"])] == ["read", "image dropped"]


# The small run: what it says of records of all three corpora is what its files hold.


def kept_id(run: Path, corpus: str) -> str:
    """A document that the first shard with the corpus shows."""
    for path in sorted(ledger.current(run / "shards").glob("*.parquet")):
        for row in read_table(path).to_pylist():
            if row["corpus"] == corpus and row["documents"]:
                return str(row["documents"][0])
    raise AssertionError(f"no sequence of {corpus}")


@pytest.mark.parametrize("corpus", ["captions", "interleaved", "text"])
def test_a_kept_record_is_in_the_tar_and_at_the_position_that_why_says(
    small_run: "Recipe", corpus: str
):
    identity = kept_id(small_run.out, corpus)
    answers = why(small_run.out, identity)
    assert answers[0].outcome == "read"
    assert answers[0].stage in ("captions/read", f"{corpus}/extract")
    places = [a.detail for a in answers if a.outcome == "in the shards"]
    assert places
    for place in places:
        name, position = str(place).split(", sequence ")
        with tarfile.open(ledger.current(small_run.out / "shards") / name) as shard:
            member = shard.extractfile(f"{int(position):09d}.json")
            assert member is not None
            held = json.load(member)
        assert held["corpus"] == corpus
        assert identity in [segment["id"] for segment in held["segments"]]


DROPPED = [
    ("captions", "no_caption"),
    ("captions", "caption_too_few_words"),
    ("captions", "http_404"),
    ("captions", "image_low_similarity"),
    ("interleaved", "language_not_kept"),
    ("text", "gopher_too_few_words"),
]


@pytest.mark.parametrize(("corpus", "reason"), DROPPED)
def test_a_dropped_record_is_found_by_url_with_stage_and_reason(
    small_run: "Recipe", corpus: str, reason: str
):
    stages = [s for s in ledger.stage_folders(small_run.out) if s[0].startswith(f"{corpus}/")]
    (stage, row), *_ = [
        (name, row)
        for name, folder in stages
        for row in ledger.read_drops(folder).to_pylist()
        if (row["unit"], row["reason"]) == ("document", reason)
    ]
    fate = next(a for a in why(small_run.out, row["url"]) if a.outcome == "dropped")
    assert fate == Answer(stage, row["id"], row["url"], "dropped", reason, row["detail"])
    assert [a.outcome for a in why(small_run.out, row["id"])][-1] != "in the shards"


def test_every_document_that_was_read_has_one_fate(small_run: "Recipe"):
    extracted = ledger.current(small_run.out / "interleaved" / "extract")
    read = read_table(ledger.part_files(extracted, "documents")[0])
    for identity in read["id"].to_pylist():
        outcomes = {a.outcome for a in why(small_run.out, identity)} - {"read", "image dropped"}
        assert outcomes in ({"dropped"}, {"in the shards"}), identity
