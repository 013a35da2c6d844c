"""What a corpus has too often, against plain counts, in any order and any parts."""

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.config.corpora import Text
from pipelines.config.steps import Copies
from pipelines.duplicates import copies
from pipelines.duplicates.copies import copies_stage, frequent, tally
from pipelines.stage import Place
from shards import ledger, schema
from shards.storage import read_table
from tests.pipelines.by_hand import kept, run_stage, source, write_stage

text = schema.text_part


def image(sha256: str, url: str | None = None) -> dict[str, Any]:
    return schema.image_part(f"http://a.example/{url or sha256}.png", sha256=sha256)


def page(url: str | None, *parts: dict[str, Any]) -> dict[str, Any]:
    return schema.document("web", url, parts)


def run(folder: Path, options: Copies, *parts: list[dict[str, Any]]) -> Place:
    inputs = [write_stage(folder / "a", [schema.documents(part) for part in parts])]
    return run_stage(copies_stage("web/copies", source("web/a"), options), folder / "x", inputs)


def shown(place: Place) -> list[list[str]]:
    """The images of each document that is left, by their bytes' names."""
    tables = [
        read_table(place.out / "documents" / f"{ledger.part_name(i)}.parquet")
        for i in range(place.parts)
    ]
    rows = chain.from_iterable(table["parts"].to_pylist() for table in tables)
    return [[part["image"] for part in row if part["image"]] for row in rows]


def test_a_picture_that_a_corpus_shows_too_often_goes_from_all_pages(tmp_path: Path):
    pages = [page(str(i), text("Words."), image("logo"), image(f"own{i}")) for i in range(3)]
    pages.append(page("9", image("logo")))
    for most, left in ((4, 4), (3, 3)):
        place = run(tmp_path / str(most), Copies(most=most), pages[:1], pages[1:])
        counts = ledger.read_counts(place.out)
        assert sum(map(len, kept(place))) == counts.kept["document"] == left
        assert counts.kept["image"] == (7 if most == 4 else 3)
    assert counts.dropped == {
        "document": {"image_too_frequent": 1},
        "image": {"image_too_frequent": 4},
    }
    assert set(ledger.read_drops(place.out)["detail"].to_pylist()) == {"shown 4 times"}


def test_one_address_may_have_had_many_pictures(tmp_path: Path):
    """By URL: what the address of a counter or an advertisement sends differs each time."""
    pages = [page(str(i), image(f"banner{i}", "banner"), image(f"own{i}")) for i in range(3)]
    place = run(tmp_path, Copies(most=2), pages)
    assert shown(place) == [["own0"], ["own1"], ["own2"]]
    assert ledger.read_counts(place.out).dropped == {"image": {"image_too_frequent": 3}}


def test_bytes_at_many_addresses_are_a_placeholder(tmp_path: Path):
    pages = [page(str(i), image("gone", f"gone{i}")) for i in range(4)]
    pages += [page(str(i), image("logo", f"logo{i % 3}"), image(f"own{i}")) for i in range(6)]
    place = run(tmp_path, Copies(most=3), pages[:2], pages[2:])
    assert shown(place) == [[f"own{i}"] for i in range(6)]
    reasons = Counter(ledger.read_drops(place.out)["reason"].to_pylist())
    assert reasons == {"image_placeholder": 8, "image_too_frequent": 6}
    details = set(ledger.read_drops(place.out)["detail"].to_pylist())
    assert details == {"shown 4 times, at more than 3 URLs", "shown 6 times"}


def test_a_page_shows_a_picture_once_and_the_first_place_is_kept(tmp_path: Path):
    again = page("1", text("a"), image("x"), text("b"), image("x", "other"), image("y"), image("x"))
    place = run(tmp_path, Copies(), [again, page("2", image("x"))])
    assert shown(place) == [["x", "y"], ["x"]]
    assert ledger.read_counts(place.out).dropped == {"image": {"image_repeated": 2}}


def test_before_the_download_there_are_only_addresses(tmp_path: Path):
    logo = schema.image_part("http://a.example/logo.png")
    pages = [page(str(i), logo, schema.image_part(f"http://a.example/{i}.png")) for i in range(3)]
    place = run(tmp_path, Copies(most=2), pages[:1], pages[1:])
    assert ledger.read_counts(place.out).dropped == {"image": {"image_too_frequent": 3}}


def test_of_a_caption_some_documents_are_kept_by_their_hashed_ids(tmp_path: Path):
    same = [page(None, image(f"i{i}"), text(f"{'a DOG' if i % 2 else 'A dog.'}")) for i in range(9)]
    other = [page(None, image("cat"), text("A cat.")), page(None, image("z")), page(None, text(""))]
    first = sorted((row["id"] for row in same), key=lambda each: schema.digest(each)[:16])[:4]
    place = run(tmp_path, Copies(of="caption", most=4), same[:5] + other, same[5:])
    left = set(first) | {row["id"] for row in other}
    assert set(chain(*kept(place))) == left
    rows = ledger.read_drops(place.out).to_pylist()
    assert {row["id"] for row in rows} == {row["id"] for row in same} - left
    whys = {(row["unit"], row["reason"], row["detail"]) for row in rows}
    assert whys == {("document", "caption_too_frequent", "9 documents have it")}


def test_of_one_pair_given_often_as_many_are_kept(tmp_path: Path):
    pair = page(None, image("i"), text("A dog."))
    place = run(tmp_path, Copies(of="caption", most=4), [pair] * 3, [pair] * 3, [pair])
    assert list(map(len, kept(place))) == [3, 1, 0]


def test_a_key_sends_one_row_a_part_however_often_it_occurs(tmp_path: Path):
    documents = [page(None, image("gone", f"gone{i}"), text("A dog.")) for i in range(100)]
    inputs = (write_stage(tmp_path / "a", [schema.documents(documents)]),)
    place = Place("web/copies", tmp_path, tmp_path / "x", inputs, (), 1)
    ((_, by_caption),) = copies._send(0, place, Copies(of="caption", most=5))
    assert by_caption["times"].to_pylist() == [100]
    assert len(by_caption["names"][0]) == 6
    ((_, by_picture),) = copies._send(0, place, Copies(most=5))
    assert sorted(by_picture["times"].to_pylist()) == [1] * 100 + [100]
    assert max(map(len, by_picture["names"])) == 6


parts = st.lists(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), max_size=15), max_size=4)


def judged(parts: list[list[tuple[int, int]]], most: int) -> dict[tuple[int, int], Any]:
    """What each part is told of its keys, given how often a key and a name go together."""
    tallies = []
    for number, part in enumerate(parts):
        pairs = Counter(part)
        columns = np.array([*pairs], np.uint64).reshape(-1, 2).T
        tallies.append(tally(*columns, np.array([*pairs.values()], np.int64), number, most))
    table = frequent(pa.concat_tables([copies.TALLY.empty_table(), *tallies]), most)
    return {(row["key"], row["part"]): row for row in table.to_pylist()}


@given(parts, st.integers(1, 4))
def test_counts_are_those_of_a_plain_loop(parts: list[list[tuple[int, int]]], most: int):
    """Parts are lists of a picture and the URL that it is at."""
    every = list(chain(*parts))
    times = Counter(key for key, _ in every)
    found = judged(parts, most)
    assert set(found) == {
        (key, i) for i, part in enumerate(parts) for key, _ in part if times[key] > most
    }
    for (key, _), row in found.items():
        assert row["times"] == times[key]
        assert (row["names"] > most) == (len({n for k, n in every if k == key}) > most)


@given(parts, st.integers(1, 4))
def test_the_first_of_a_corpus_are_those_of_one_sorted_list(
    parts: list[list[tuple[int, int]]], most: int
):
    """Parts are lists of a caption and a document."""
    parts = [list(dict.fromkeys(part)) for part in parts]
    for (key, part), row in judged(parts, most).items():
        ranked = sorted((name, i) for i, of in enumerate(parts) for k, name in of if k == key)
        assert row["first"] == sum(i == part for _, i in ranked[:most])


def test_text_has_captions_but_no_pictures():
    read = {"files": ["x.jsonl"]}
    Text.model_validate({"read": read, "steps": [{"copies": {"of": "caption", "most": 3}}]})
    with pytest.raises(ValidationError, match="of: caption"):
        Text.model_validate({"read": read, "steps": ["copies"]})
