"""Duplicates by key: the verdicts are those of a loop over all records, however they arrive."""

import json
import random
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.reading import ConfigError
from pipelines.config.steps import Dedupe, Near, NearImage, Semantic
from pipelines.duplicates import alike, dedupe, keys, near
from pipelines.engines.dataflow import shuffles
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
    lambda rows: [row | {"part": i % 3, "row": i} for i, row in enumerate(rows)]
)


NOWHERE = Place("dedupe", Path(), Path(), (), (), 1)


def judged(rows: list[dict[str, Any]], order: random.Random) -> list[dict[str, Any]]:
    """The verdicts on rows that arrive in tables of any size, in any order."""
    rows = list(rows)
    order.shuffle(rows)
    tables = [dedupe.LOSER.empty_table()]
    while rows:
        size = order.randint(1, len(rows))
        tables.append(pa.Table.from_pylist(rows[:size], schema=dedupe.LOSER))
        rows = rows[size:]
    found = dict(dedupe._judge((0, tables), NOWHERE))
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
    assert judged(rows, order) == expected


def keys_of(options: Dedupe, *documents: dict[str, Any]) -> list[list[int]]:
    """The keys of each document, 0 for what it does not have."""
    table = keys.records(schema.documents(documents), options)
    return keys.matrix(table).tolist()


def test_keys_of_different_kinds_never_meet():
    options = Dedupe(exact=["url", "image", "content"], near=Near(bands=2, rows=1))
    ((*found,),) = keys_of(options, page("cat", text("cat"), image("cat")))
    assert len(set(found)) == 5
    assert keys.kinds(options).tolist() == [0, 1, 2, 3, 3]
    assert keys.reasons(options)[2:] == ["duplicate_content", "near_duplicate"]


def test_a_document_has_no_key_of_what_it_does_not_have():
    options = Dedupe(exact=["url", "image"])
    nothing = keys_of(options, page(None, text("A cat.")), page("", schema.image_part("u")))
    assert nothing == [[keys.NO_KEY] * 2] * 2


@pytest.mark.parametrize("options", [Dedupe(exact=["content"]), Dedupe(near=Near())])
def test_scopes_never_meet(options: Dedupe):
    pages = [page("http://a.example/1", text("A cat.")), page("http://b.example/1", text("A cat."))]
    one, other = keys_of(options, *pages)
    assert one == other
    one, other = keys_of(options.model_copy(update={"scope": "host"}), *pages)
    assert not set(one) & set(other)
    again = page("https://A.example:8080/2", text("A cat."))
    assert keys_of(options.model_copy(update={"scope": "host"}), again) == [one]


@pytest.mark.parametrize("scope", ["snapshot", "source"])
def test_a_scope_is_a_column_of_documents(scope: str):
    options = Dedupe(exact=["content"], scope=scope)
    cats = [page(str(i), text("A cat.")) | {scope: value} for i, value in enumerate("aba")]
    first, other, same = keys_of(options, *cats)
    assert first == same != other


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
    assert not np.array(keys_of(options, page("1", *parts), page("2", *parts))).any()


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
    assert not np.array(keys_of(NEAR, page("1", text(wordless)), page("2", text("***")))).any()
    (found,) = keys_of(NEAR, page("3", text("word")))
    assert len(set(found)) == Near().bands


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


@pytest.mark.parametrize("options", [Dedupe(exact=["image"]), Dedupe(exact=["url", "image"])])
def test_of_pairs_of_one_picture_the_best_score_is_kept(tmp_path: Path, options: Dedupe):
    """Before a step `clip` there is no score, and the longest caption is kept."""
    captions = ["A cat.", "A cat that sleeps in the sun.", "A cat on a mat."]
    pairs = [page(None, image("cat"), text(caption)) for caption in captions]
    found, _ = run(tmp_path / "before", options, pairs[:1], pairs[1:])
    assert found == [[], [pairs[1]["id"]]]
    for score, each in zip([0.3, 0.1, 0.2], pairs, strict=True):
        each["parts"][0]["score"] = score
    found, _ = run(tmp_path / "after", options, pairs[:1], pairs[1:])
    assert found == [[pairs[0]["id"]], []]


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


def chained(length: int) -> list[dict[str, Any]]:
    """Pages of which each shares its URL or its content with the next."""
    return [
        page(f"http://a.example/{i // 2}", text(words(9, f"w{(i + 1) // 2}x")))
        for i in range(length)
    ]


def test_of_a_long_chain_one_is_kept(tmp_path: Path):
    pages = chained(60)
    random.Random(3).shuffle(pages)
    options = Dedupe(exact=["url", "content"])
    found, drops = run(tmp_path, options, pages[:20], pages[20:50], [], pages[50:])
    survivors = list(chain(*found))
    assert len(survivors) == 1
    assert {row["detail"] for row in drops} == set(survivors)
    assert not list((tmp_path / "dedupe" / "out").glob("links-*"))


def clusters_by_hand(pages: list[dict[str, Any]]) -> list[set[int]]:
    """The positions of pages that have a URL or their text in common, however indirectly."""
    clusters: list[set[int]] = []
    for i, mine in enumerate(pages):

        def alike(j: int, mine: dict[str, Any] = mine) -> bool:
            return pages[j]["url"] == mine["url"] or pages[j]["parts"] == mine["parts"]

        met = [cluster for cluster in clusters if any(map(alike, cluster))]
        clusters = [c for c in clusters if c not in met] + [{i}.union(*met)]
    return clusters


@pytest.mark.parametrize("seed", range(4))
def test_clusters_and_keepers_are_those_of_a_plain_loop(tmp_path: Path, seed: int):
    order = random.Random(seed)
    pages = [
        page(
            str(order.randrange(25)),
            text(words(5 + order.randrange(3), f"t{order.randrange(20)}x")),
        )
        for _ in range(40)
    ]
    for each in pages:
        each["scores"] = order.choice([[], [("quality", order.choice([0.25, 0.5]))]])

    def best(row: dict[str, Any]) -> tuple[float, int, str]:
        return -dict(row["scores"]).get("quality", 0), -len(row["parts"][0]["text"]), row["id"]

    expected = [min((pages[i] for i in c), key=best)["id"] for c in clusters_by_hand(pages)]
    options = Dedupe(exact=["url", "content"])
    for name, cuts in (("one", [40]), ("four", [3, 3, 30, 40])):
        parts = [pages[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
        found, drops = run(tmp_path / name, options, *parts)
        assert sorted(chain(*found)) == sorted(expected)
        assert {row["detail"] for row in drops} <= set(expected)
        order.shuffle(pages)


def edited(count: int, edits: int, seed: str) -> str:
    """Text with so many of its words replaced, far apart."""
    text = words(count).split()
    for k in range(edits):
        text[4 + k * (count - 8) // edits] = f"{seed}{k}"
    return " ".join(text)


def test_candidates_are_compared_where_a_recipe_asks_for_it(tmp_path: Path):
    """Similarities to the first: 0.9, 0.5; with bands of one row all are candidates."""
    base, close = page("1", text(words(204))), page("2", text(edited(204, 2, "x")))
    far, other = page("3", text(edited(204, 13, "y"))), page("4", text(words(204, "z")))
    bands = Near(bands=40, rows=1)
    parts = [base, far], [other], [close]
    found, _ = run(tmp_path / "bands", Dedupe(near=bands), *parts)
    assert len(list(chain(*found))) == 2
    found, drops = run(
        tmp_path / "each", Dedupe(near=bands.model_copy(update={"verify": 0.8})), *parts
    )
    kept_one, lost = max((base, close), key=len_of), min((base, close), key=len_of)
    assert set(chain(*found)) == {kept_one["id"], far["id"], other["id"]}
    assert drops == [{"id": lost["id"], "reason": "near_duplicate", "detail": kept_one["id"]}]


def len_of(row: dict[str, Any]) -> int:
    return len(row["parts"][0]["text"])


def test_small_bands_are_compared_in_full_and_large_ones_in_a_window():
    def pairs(count: int) -> list[tuple[int, int]]:
        draw = np.random.default_rng(count)
        columns = [np.ones(count, np.uint64), draw.permutation(count).astype(np.uint64)]
        rows = pa.table([*columns, np.arange(count)], schema=alike.NAMED)
        return list(zip(*(ends.tolist() for ends in alike.candidates(rows)), strict=True))

    assert pairs(alike.WINDOW + 1) == list(combinations(range(alike.WINDOW + 1), 2))
    assert len(pairs(1000)) < 1000 * (alike.WINDOW + 1)


def test_the_pairs_of_a_large_band_do_not_depend_on_places():
    def pairs(seed: int) -> set[frozenset[int]]:
        node = np.random.default_rng(seed).permutation(100)
        columns = [np.ones(100, np.uint64), np.arange(100, dtype=np.uint64), node]
        found = alike.candidates(pa.table(columns, schema=alike.NAMED))
        named = np.argsort(node)
        return {frozenset((named[a], named[b])) for a, b in zip(*found, strict=True)}

    assert pairs(1) == pairs(2)
    assert {frozenset((0, i)) for i in range(1, 100)} < pairs(1)


def test_bands_are_given_or_follow_from_a_threshold():
    assert Near().banding == (14, 8)
    assert Near(threshold=0.8).banding == (9, 13)
    assert Near(threshold=0.8, permutations=256).banding == (17, 15)
    for wrong in ({"threshold": 0.8, "rows": 8}, {"permutations": 256}):
        with pytest.raises(ValidationError):
            Near.model_validate(wrong)
    with pytest.raises(ValidationError, match="keep only keys"):
        Dedupe(near=Near(verify=0.8), against=["runs/first"])


def test_what_is_compared_does_not_depend_on_the_parts(tmp_path: Path):
    order = random.Random(5)
    pages = [page(str(i), text(edited(120, i % 12, f"e{i % 5}x"))) for i in range(40)]
    options = Dedupe(near=Near(verify=0.7))
    found = []
    for name, cut in (("a", 7), ("b", 25)):
        kept_ids, drops = run(tmp_path / name, options, pages[:cut], pages[cut:])
        found.append((sorted(chain(*kept_ids)), sorted(drops, key=str)))
        order.shuffle(pages)
    assert found[0] == found[1]
    assert 1 < len(found[0][0]) < 40


def finish(folder: Path, options: Dedupe, *parts: list[dict[str, Any]]) -> Path:
    """A run whose dedupe is finished, as a run's folder holds it."""
    stage = dedupe.dedupe_stage("web/dedupe", source("web/a"), options)
    inputs = [write_stage(folder / "in", [schema.documents(part) for part in parts])]
    run_stage(stage, folder / "web" / "dedupe", inputs)
    home = folder / "web" / "dedupe" / ledger.STAGE_FILE
    said = json.loads(home.read_text())
    home.write_text(json.dumps(said | {"pieces": {"config": options.model_dump()}}))
    return folder


BASES = [Dedupe(exact=["content"]), Dedupe(exact=["content"], near=Near())]


@pytest.mark.parametrize("options", BASES)
def test_what_another_run_has_kept_is_not_kept_again(tmp_path: Path, options: Dedupe):
    mine, theirs = page("1", text(words(100))), page("2", text(words(100)))
    new, lost = page("3", text(words(100, "x"))), page("4", text(words(100)))
    finish(tmp_path / "first", options, [page("5", text("Else."))], [theirs, lost])
    (first,) = {theirs["id"], lost["id"]} & {min(theirs["id"], lost["id"])}
    for file in (tmp_path / "first").rglob("documents/*.parquet"):
        file.unlink()  # its text is not read again
    again = options.model_copy(update={"against": [str(tmp_path / "first")]})
    found, drops = run(tmp_path, again, [mine], [new])
    assert found == [[], [new["id"]]]
    detail = f"{first} of {tmp_path / 'first'}"
    assert drops == [{"id": mine["id"], "reason": "duplicate_content", "detail": detail}]


def test_a_run_that_verified_can_be_deduped_against(tmp_path: Path):
    finish(tmp_path / "first", Dedupe(near=Near(verify=0.8)), [page("1", text(words(99)))])
    again = Dedupe(near=Near(), against=[str(tmp_path / "first")])
    found, drops = run(tmp_path, again, [page("2", text(words(100)))])
    assert found == [[]]
    assert [row["reason"] for row in drops] == ["near_duplicate"]


def test_runs_have_to_agree_on_keys(tmp_path: Path):
    finish(tmp_path / "first", BASES[1], [page("1", text("A cat."))])
    known = [str(tmp_path / "first")]
    for other, named in (
        (Dedupe(exact=["content"], near=Near(rows=9), against=known), "near"),
        (Dedupe(exact=["url"], near=Near(), against=known), "exact"),
        (Dedupe(exact=["content"], near=Near(), scope="host", against=known), "scope"),
        (Dedupe(exact=["content"], against=["nowhere"]), "no finished stage"),
    ):
        with pytest.raises(ConfigError, match=named):
            dedupe.dedupe_stage("web/dedupe", source("web/a"), other)


def test_nothing_but_tables_crosses_the_shuffles_of_links(tmp_path: Path):
    """By the coders of the graphs: a pickle could hold anything."""
    known = finish(tmp_path / "first", BASES[1], [page("1", text("A cat."))])
    finished = ledger.current(known / "web" / "dedupe")
    against = near.Job(BASES[1], (near.Finished("first", finished, 1),))
    verified = near.Job(Dedupe(exact=["url"], near=Near(verify=0.8)), ())
    alike = near.Job(Dedupe(near_image=NearImage()), ())
    meant = near.Job(Dedupe(semantic=Semantic()), ())
    for job in (against, verified, alike, meant):
        place = Place("web/dedupe", tmp_path, tmp_path / "out", (finished,), (finished,), 3)
        pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
        graph = near.next_job(place, job)
        assert graph is not None
        graph(pipeline)
        found = [c for name, c in shuffles(pipeline.to_runner_api()) if not name.endswith("spread")]
        assert set(found) == {"TupleCoder[VarIntCoder, TableCoder]"}


def test_a_key_sends_one_row_a_part_however_often_it_occurs(tmp_path: Path):
    copies = schema.documents([page(str(i), text("The same words.")) for i in range(100)])
    folder = write_stage(tmp_path / "in", [copies])
    where = Place("web/dedupe", tmp_path, tmp_path / "out", (folder,), (), 1)
    pieces = dict(dedupe._split_keys(0, where, Dedupe(exact=["content"])))
    by_key, losers_of_the_part = 0, 1
    assert pieces[by_key].num_rows == 1
    assert pieces[losers_of_the_part].num_rows == 99
