"""The step that edits lines: every word that goes is in the measures, nothing goes silently."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.config.rules import FilterSpec
from pipelines.lines import lines_stage
from shards import ledger, schema
from shards.storage import read_table
from tests.pipelines.by_hand import kept, run_stage, source, write_stage

PAGE = "A first line of prose.\nMENU HOME ABOUT\nA second line of prose."


def documents(*texts: str) -> pa.Table:
    return schema.documents(
        schema.document("web", f"u{i}", [schema.text_part(text)]) for i, text in enumerate(texts)
    )


def run(tmp_path: Path, rule: FilterSpec, *parts: pa.Table):
    stage = lines_stage("text/lines", source("text/read"), rule)
    return run_stage(stage, tmp_path / "lines", [write_stage(tmp_path / "read", parts)])


def test_lines_go_and_are_accounted_for(tmp_path: Path):
    read = documents(PAGE, "Nothing to do here.", "3 likes\n2024")
    place = run(tmp_path, FilterSpec(name="refinedweb"), read)
    after = read_table(place.out / "documents" / "part-00000.parquet")
    assert schema.texts(after) == [
        "A first line of prose.\nA second line of prose.",
        "Nothing to do here.",
    ]
    assert after["id"].to_pylist() == read["id"].to_pylist()[:2]  # an edit is no other document
    assert [dict(row)["lines"] for row in after["scores"].to_pylist()] == [
        pytest.approx(3 / 13),
        0.0,
    ]
    (lost,) = ledger.read_drops(place.out).to_pylist()
    assert (lost["reason"], lost["content"]) == ("lines_nothing_left", "3 likes\n2024")


def test_the_measures_say_how_many_words_went_and_why(tmp_path: Path):
    place = run(tmp_path, FilterSpec(name="refinedweb"), documents(PAGE, "3 likes\n2024"))
    table = read_table(place.out / "measures" / "part-00000.parquet")
    columns = {name: table[name].to_pylist() for name in table.column_names[1:]}
    assert {name: pytest.approx(values) for name, values in columns.items() if any(values)} == {
        "lines_nothing_left": [0.0, 1.0],
        "lines": [pytest.approx(3 / 13), 1.0],
        "refinedweb_uppercase": [3.0, 0.0],
        "refinedweb_number": [0.0, 1.0],
        "refinedweb_counter": [0.0, 2.0],
    }


def test_thresholds_reach_the_edit(tmp_path: Path):
    rule = FilterSpec(name="c4", thresholds={"terminated": False, "min_words": 4})
    place = run(tmp_path, rule, documents("No period is here\nThree words only\n"))
    after = read_table(place.out / "documents" / "part-00000.parquet")
    assert schema.texts(after) == ["No period is here"]


def test_a_document_of_several_texts_is_one_account(tmp_path: Path):
    parts = [
        schema.text_part("MENU BAR"),
        schema.image_part("http://a.example/x.png"),
        schema.text_part(PAGE),
    ]
    read = schema.documents([schema.document("web", "u", parts)])
    place = run(tmp_path, FilterSpec(name="refinedweb"), read, documents())
    after = read_table(place.out / "documents" / "part-00000.parquet")
    assert [part["text"] for part in after["parts"].to_pylist()[0]] == [
        "",
        None,
        "A first line of prose.\nA second line of prose.",
    ]
    measures = read_table(place.out / "measures" / "part-00000.parquet")
    assert measures["refinedweb_uppercase"].to_pylist() == [5.0]
    assert kept(place) == [read["id"].to_pylist(), []]
