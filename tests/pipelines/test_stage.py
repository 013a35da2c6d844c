"""The steps that stages are built of: filters in order, parts that may be empty or done."""

from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.rules import FilterSpec
from pipelines.stage import Place, filter_stage, image_count, judge, scatter
from shards import ledger, measures, schema
from shards.storage import read_table
from tests.pipelines.by_hand import kept, run_stage, source, write_stage

GOOD = "A cat on a mat."


def captions(*texts: str) -> pa.Table:
    return schema.documents(
        schema.document(
            "web", f"u{i}", [schema.image_part(f"http://a.example/{i}"), schema.text_part(text)]
        )
        for i, text in enumerate(texts)
    )


def run(tmp_path: Path, filters: list[FilterSpec], *parts: pa.Table) -> Place:
    stage = filter_stage("web/filters", source("web/read"), filters)
    return run_stage(stage, tmp_path / "filters", [write_stage(tmp_path / "read", parts)])


WORDS = FilterSpec(name="caption_words", thresholds={"min": 3})
CHARACTERS = FilterSpec(name="caption_characters", thresholds={"min": 8})


def test_the_reason_is_that_of_the_first_filter_that_drops(tmp_path: Path):
    # "Cat." has too few words and characters, "A a a" too few characters only.
    words, characters = "caption_too_few_words", "caption_too_few_characters"
    for name, filters, reasons in (
        ("words first", [WORDS, CHARACTERS], [words, characters]),
        ("characters first", [CHARACTERS, WORDS], [characters, characters]),
    ):
        place = run(tmp_path / name, filters, captions("Cat.", GOOD, "A a a"))
        drops = ledger.read_drops(place.out).to_pylist()
        assert {row["content"]: row["reason"] for row in drops} == dict(
            zip(["Cat.", "A a a"], reasons, strict=True)
        )
        assert len(drops) == 2  # one row a document, however many filters would drop it


def test_a_verdict_names_the_measure_and_the_bound_that_it_broke():
    documents = captions("Cat.", GOOD, "A a a")
    verdicts = judge(documents, [WORDS, FilterSpec(name="caption_url"), CHARACTERS])
    assert verdicts["id"] == documents["id"]
    assert verdicts["reason"].to_pylist() == [
        "caption_too_few_words",
        None,
        "caption_too_few_characters",
    ]
    assert verdicts["detail"].to_pylist() == ["1 < 3", None, "5 < 8"]
    flagged = judge(captions("http://a.example/"), [FilterSpec(name="caption_url")])
    assert (flagged["reason"].to_pylist(), flagged["detail"].to_pylist()) == (
        ["caption_url"],
        [None],
    )


def test_what_is_dropped_is_measured_no_further_unless_all_is():
    documents = captions("Cat.", GOOD)
    few = judge(documents, [WORDS, CHARACTERS])
    assert few["caption_too_few_words"].to_pylist() == [1, 5]
    assert few["caption_too_few_characters"].to_pylist() == [None, 15]
    every = judge(documents, [WORDS, CHARACTERS], measure_all=True)
    assert every["caption_too_few_characters"].to_pylist() == [4, 15]
    assert every["reason"] == few["reason"]


def test_measures_are_kept_beside_the_documents_with_their_bounds(tmp_path: Path):
    place = run(tmp_path, [WORDS, CHARACTERS], captions("Cat.", GOOD))
    table = read_table(place.out / "measures" / "part-00000.parquet")
    assert table["id"].to_pylist() == captions("Cat.", GOOD)["id"].to_pylist()
    assert table["caption_too_few_words"].to_pylist() == [1, 5]
    bounds = {bound.rule: (bound.min, bound.max) for bound in measures.bounds(place.out)}
    assert bounds == {
        "caption_too_few_words": (3, None),
        "caption_too_many_words": (None, None),
        "caption_too_few_characters": (8, None),
        "caption_too_many_characters": (None, None),
    }
    drops = ledger.read_drops(place.out).to_pylist()
    assert [row["detail"] for row in drops] == ["1 < 3"]


def test_without_filters_everything_is_kept(tmp_path: Path):
    place = run(tmp_path, [], captions("Cat.", GOOD))
    assert ledger.read_counts(place.out) == ledger.Counts({"document": 2}, {"document": 2})


def test_part_i_comes_of_part_i_even_if_nothing_is_left_of_it(tmp_path: Path):
    parts = [captions(GOOD, "Cat."), captions("Cat."), captions()]
    place = run(tmp_path, [WORDS], *parts)
    assert kept(place) == [parts[0]["id"].to_pylist()[:1], [], []]
    again = filter_stage("web/more", source("web/filters"), [CHARACTERS])
    (place.out / ledger.STAGE_FILE).write_text('{"parts": 3}')
    assert kept(run_stage(again, tmp_path / "more", [place.out])) == kept(place)


def test_a_part_that_is_there_is_not_written_again(tmp_path: Path):
    place = run(tmp_path, [WORDS], captions(GOOD), captions(GOOD))
    (place.out / "counts" / "part-00001.json").unlink()
    before = {f: f.stat().st_mtime_ns for f in (place.out / "documents").iterdir()}
    run(tmp_path, [WORDS], captions(GOOD), captions(GOOD))
    after = {f.name: f.stat().st_mtime_ns == t for f, t in before.items()}
    assert after == {"part-00000.parquet": True, "part-00001.parquet": False}


@given(st.lists(st.tuples(st.integers(0, 4), st.text(max_size=3)), max_size=20))
def test_scattered_rows_keep_their_order_and_are_all_there(rows: list[tuple[int, str]]):
    table = pa.table({"text": pa.array([text for _, text in rows], pa.string())})
    found = scatter(table, [target for target, _ in rows])
    assert [target for target, _ in found] == sorted({target for target, _ in rows})
    for target, piece in found:
        assert piece["text"].to_pylist() == [text for to, text in rows if to == target]
        assert piece.schema.equals(table.schema)


def test_a_stage_that_selects_says_so():
    """What keeps everything is then worth a warning."""
    assert filter_stage("x", source("y"), [WORDS]).selects
    assert not filter_stage("x", source("y"), []).selects


def test_images_are_counted_by_the_parts_that_show_them():
    assert image_count(captions("a", "b")) == 2
    assert image_count(captions()) == 0
