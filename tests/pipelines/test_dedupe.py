"""Duplicates by key: the verdicts are those of a loop over all records, however they arrive."""

import random
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import dedupe
from pipelines.config import Dedupe, Near
from pipelines.stage import Place
from shards import ledger, schema
from tests.pipelines.by_hand import kept, run_stage, source, write_stage

text = schema.text_part
NEAR = Dedupe(near=Near())


def image(name: str, sha256: str | None = None) -> dict[str, Any]:
    return schema.image_part(f"http://a.example/{name}.png", sha256=sha256 or name)


def page(url: str | None, *parts: dict[str, Any]) -> dict[str, Any]:
    return schema.document("web", url, parts)


def words(count: int, seed: str = "w") -> str:
    return " ".join(f"{seed}{i}" for i in range(count))


record = st.fixed_dictionaries(
    {"key": st.sampled_from("abc"), "rank": st.integers(-2, 0), "id": st.sampled_from("123")}
)
records = st.lists(record, max_size=12).map(
    lambda rows: [
        row | {"reason": "r", "priority": 0, "part": i % 3, "row": i} for i, row in enumerate(rows)
    ]
)


NOWHERE = Place("dedupe", Path(), Path(), (), (), 1)


def judged(rows: list[dict[str, Any]], verdicts: Any, order: random.Random) -> list[dict[str, Any]]:
    """The verdicts on rows that arrive in tables of any size, in any order."""
    rows = list(rows)
    order.shuffle(rows)
    tables = [dedupe.LOSER.empty_table()]
    while rows:
        size = order.randint(1, len(rows))
        tables.append(pa.Table.from_pylist(rows[:size], schema=dedupe.LOSER))
        rows = rows[size:]
    found = dict(dedupe._judge((0, tables), NOWHERE, verdicts))
    assert all(table["part"].to_pylist() == [part] * len(table) for part, table in found.items())
    return sorted((row for t in found.values() for row in t.to_pylist()), key=lambda r: r["row"])


def place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["rank"], row["id"], row["part"], row["row"]


@given(records, st.randoms(use_true_random=False))
def test_all_but_the_best_record_of_a_key_lose_to_it(
    rows: list[dict[str, Any]], order: random.Random
):
    best = {row["key"]: row for row in sorted(rows, key=place, reverse=True)}
    expected = [r | {"keeper": best[r["key"]]["id"]} for r in rows if r is not best[r["key"]]]
    assert judged(rows, dedupe.losers, order) == expected


@given(records, st.integers(1, 4), st.randoms(use_true_random=False))
def test_all_records_of_a_key_that_is_too_frequent_go(
    rows: list[dict[str, Any]], most: int, order: random.Random
):
    def verdicts(keys: pa.Table) -> pa.Table:
        return dedupe.frequent(keys, most=most)

    def occurrences(key: str) -> int:
        return sum(r["rank"] for r in rows if r["key"] == key)

    expected = [r["row"] for r in rows if occurrences(r["key"]) > most]
    assert [row["row"] for row in judged(rows, verdicts, order)] == expected


def keys_of(options: Dedupe, *documents: dict[str, Any]) -> list[list[str]]:
    """The keys of each document."""
    table = dedupe.document_keys(schema.documents(documents), 0, options=options)
    rows = table.to_pylist()
    return [[row["key"] for row in rows if row["row"] == i] for i in range(len(documents))]


def test_a_key_begins_with_its_kind_so_that_kinds_never_meet():
    options = Dedupe(exact=["url", "image", "content"], near=Near(bands=2, rows=1))
    ((url, shown, content, *bands),) = keys_of(options, page("image:cat", text("A"), image("cat")))
    assert (url, shown) == ("url:image:cat", "image:cat")
    assert content.startswith("content:")
    assert [band[:7] for band in bands] == ["band:0:", "band:1:"]


def test_a_document_has_no_key_of_what_it_does_not_have():
    options = Dedupe(exact=["url", "image"])
    nothing = keys_of(options, page(None, text("A cat.")), page("", schema.image_part("u")))
    assert nothing == [[], []]


def test_content_is_the_words_and_the_images():
    first, case, other, picture = keys_of(
        Dedupe(exact=["content"]),
        page("1", text("A cat.")),
        page("2", text("a  CAT")),
        page("3", text("A dog.")),
        page("4", text("A cat."), image("cat")),
    )
    assert first == case
    assert len({*first, *other, *picture}) == 3


@pytest.mark.parametrize("nothing", ["", " \n ", None])
def test_documents_without_content_are_no_copies_of_each_other(nothing: str | None):
    parts = [] if nothing is None else [text(nothing)]
    options = Dedupe(exact=["content"], near=Near())
    assert keys_of(options, page("1", *parts), page("2", *parts)) == [[], []]


def test_pages_of_nothing_but_the_same_image_are_copies():
    cat, again, dog = keys_of(
        Dedupe(exact=["content"]),
        page("1", image("cat")),
        page("2", image("cat")),
        page("3", image("dog")),
    )
    assert cat == again != dog


@pytest.mark.parametrize("wordless", ["", "...", "!? — ©"])
def test_texts_without_words_are_near_to_nothing(wordless: str):
    assert keys_of(NEAR, page("1", text(wordless)), page("2", text("***"))) == [[], []]
    (keys,) = keys_of(NEAR, page("3", text("word")))
    assert len(keys) == Near().bands


def run(tmp_path: Path, options: Dedupe, *parts: list[dict[str, Any]]) -> tuple[Any, pa.Table]:
    """The ids that a dedupe stage keeps, and its ledger."""
    stage = dedupe.dedupe_stage("web/dedupe", source("web/a"), options)
    inputs = [write_stage(tmp_path / "a", [schema.documents(part) for part in parts])]
    place = run_stage(stage, tmp_path / "dedupe", inputs)
    drops = ledger.read_drops(place.out).select(["id", "reason", "detail"])
    return kept(place), drops.to_pylist()


def test_the_longest_of_near_copies_is_kept_wherever_it_stands(tmp_path: Path):
    short, long = page("1", text(words(100))), page("2", text(words(101)))
    other, longest = page("3", text(words(100, "x"))), page("4", text(words(102)))
    found, drops = run(tmp_path, NEAR, [short, other], [long], [longest])
    assert found == [[other["id"]], [], [longest["id"]]]
    assert drops == [
        {"id": loser["id"], "reason": "near_duplicate", "detail": longest["id"]}
        for loser in (short, long)
    ]


def test_of_equal_copies_the_smallest_id_is_kept(tmp_path: Path):
    copies = [page(str(i), text("The same words.")) for i in range(5)]
    found, drops = run(tmp_path, Dedupe(exact=["content"]), copies[:3], copies[3:])
    best = min(copy["id"] for copy in copies)
    assert list(chain(*found)) == [best]
    assert {row["detail"] for row in drops} == {best}


def test_a_record_given_twice_is_kept_once(tmp_path: Path):
    """Both have one id; the first place wins."""
    twice = page("1", text("The same words."))
    found, drops = run(tmp_path, Dedupe(exact=["url"]), [twice], [twice])
    assert found == [[twice["id"]], []]
    assert drops == [{"id": twice["id"], "reason": "duplicate_url", "detail": twice["id"]}]


def test_the_reason_is_the_first_of_the_recipe(tmp_path: Path):
    first, second = page("1", text("Same words.")), page("1", text("Same words."), text("."))
    options = Dedupe(exact=["content", "url"])
    _, drops = run(tmp_path, options, [first, second])
    assert [row["reason"] for row in drops] == ["duplicate_content"]
    reverse = Dedupe(exact=["url", "content"])
    _, drops = run(tmp_path / "again", reverse, [first, second])
    assert [row["reason"] for row in drops] == ["duplicate_url"]


def test_verdicts_do_not_depend_on_the_parts(tmp_path: Path):
    order = random.Random(1)
    texts = [words(40 + i % 3, f"s{i % 7}") for i in range(30)] + ["", "...", "...", ""]
    documents = [page(str(i), text(t)) for i, t in enumerate(texts)]
    options = Dedupe(exact=["content"], near=Near())
    one, drops = run(tmp_path / "one", options, documents)
    shuffled = order.sample(documents, len(documents))
    many, same = run(tmp_path / "many", options, shuffled[:5], [], shuffled[5:6], shuffled[6:])
    assert sorted(chain(*many)) == sorted(chain(*one))
    assert sorted(same, key=str) == sorted(drops, key=str)
    assert len(one[0]) == 7 + 3  # "..." twice is an exact copy of itself; "" is a copy of nothing


def test_images_that_a_corpus_shows_too_often_go_from_all_pages(tmp_path: Path):
    logo = image("logo")
    pages = [page(str(i), text("Words."), logo, image(f"own{i}")) for i in range(3)]
    pages.append(page("9", logo))
    parts = [schema.documents(pages[:1]), schema.documents(pages[1:])]
    inputs = [write_stage(tmp_path / "a", parts)]
    for most, left in ((4, 4), (3, 3)):
        stage = dedupe.image_copies_stage("web/copies", source("web/a"), most)
        place = run_stage(stage, tmp_path / f"copies{most}", inputs)
        counts = ledger.read_counts(place.out)
        assert sum(map(len, kept(place))) == counts.kept["document"] == left
        assert counts.kept["image"] == (7 if most == 4 else 3)
    assert counts.dropped == {
        "document": {"image_too_frequent": 1},
        "image": {"image_too_frequent": 4},
    }


def test_a_key_sends_one_row_a_part_however_often_it_occurs(tmp_path: Path):
    copies = schema.documents([page(str(i), text("The same words.")) for i in range(100)])
    folder = write_stage(tmp_path / "in", [copies])
    where = Place("web/dedupe", tmp_path, tmp_path / "out", (folder,), (), 1)
    pieces = dict(dedupe._split_keys(0, where, Dedupe(exact=["content"])))
    by_key, losers_of_the_part = 0, 1
    assert pieces[by_key].num_rows == 1
    assert pieces[losers_of_the_part].num_rows == 99
