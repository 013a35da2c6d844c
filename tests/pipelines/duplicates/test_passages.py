"""Repeated passages go from all documents but the first, whatever parts these come in."""

import random
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.config.steps import Passages
from pipelines.duplicates.passages import passages_stage
from pipelines.stage import Place
from shards import ledger, schema
from shards.storage import read_table
from tests.pipelines.by_hand import run_stage, source, write_stage


def page(url: str, text: str) -> dict[str, Any]:
    return schema.document("web", url, [schema.text_part(text)])


def run(
    tmp_path: Path, options: Passages, *parts: list[dict[str, Any]]
) -> tuple[dict[str, str], Place]:
    """The texts that are left, by URL."""
    stage = passages_stage("web/passages", source("web/a"), options)
    inputs = [write_stage(tmp_path / "a", [schema.documents(part) for part in parts])]
    place = run_stage(stage, tmp_path / "passages", inputs)
    files = ledger.part_files(place.out, "documents")
    documents = pa.concat_tables([read_table(file) for file in files])
    texts = schema.texts(documents)
    return dict(zip(documents["url"].to_pylist(), texts, strict=True)), place


def test_a_paragraph_that_a_host_repeats_goes_from_all_its_pages(tmp_path: Path):
    """OBELICS: identical paragraphs of a host, from the third occurrence on, all of them."""
    options = Passages(unit="paragraph", scope="host", least=3, keep="none")
    pages = [page(f"http://a.example/{i}", f"Own {i}.\n\nAll rights\nreserved.") for i in range(3)]
    others = [
        page(f"http://b.example/{i}", f"Mine {i}.\n\nAll rights\nreserved.") for i in range(2)
    ]
    texts, place = run(tmp_path, options, pages[:1] + others, pages[1:])
    assert [texts[f"http://a.example/{i}"] for i in range(3)] == ["Own 0.", "Own 1.", "Own 2."]
    assert texts["http://b.example/0"] == "Mine 0.\n\nAll rights\nreserved."
    (measures, _) = (read_table(file) for file in ledger.part_files(place.out, "measures"))
    assert measures["passages_removed"].to_pylist() == pytest.approx([3 / 5, 0, 0])


def test_of_three_sentences_that_occur_again_the_first_stay(tmp_path: Path):
    """C4: all but one of any three-sentence span."""
    options = Passages(unit="sentence", span=3)
    shared = "One cat. Two cats. Three cats."
    a, b = page("1", f"Before. {shared} After it."), page("2", f"Else. {shared} Later on.")
    texts, _ = run(tmp_path, options, [a], [b])
    first, other = sorted((a, b), key=lambda row: int(schema.digest(row["id"])[:16], 16))
    assert texts[first["url"]] == first["parts"][0]["text"]
    own = {"1": "Before. After it.", "2": "Else. Later on."}
    assert texts[other["url"]] == own[other["url"]]


def test_two_sentences_are_no_span_of_three(tmp_path: Path):
    options = Passages(unit="sentence", span=3)
    pages = [page(str(i), f"One cat. Two cats. Own {i}.") for i in range(3)]
    texts, _ = run(tmp_path, options, pages)
    assert set(texts.values()) == {row["parts"][0]["text"] for row in pages}


def test_documents_with_too_little_left_are_dropped(tmp_path: Path):
    options = Passages(unit="line", keep="none", min_words=3)
    empty, short = page("1", "Same line here."), page("2", "Same line here.\nTwo words.")
    enough, untouched = page("3", "same line HERE\nThree more words."), page("4", "Short.")
    texts, place = run(tmp_path, options, [empty, short], [enough, untouched])
    assert texts == {"3": "Three more words.", "4": "Short."}
    drops = ledger.read_drops(place.out).select(["id", "reason"]).to_pylist()
    assert drops == [
        {"id": empty["id"], "reason": "passages_nothing_left"},
        {"id": short["id"], "reason": "passages_too_few_words"},
    ]


def by_hand(pages: list[dict[str, Any]], least: int) -> dict[str, str]:
    """Lines of the whole corpus, each kept where it stands first."""
    order = sorted(pages, key=lambda row: int(schema.digest(row["id"])[:16], 16))
    lines = {row["url"]: row["parts"][0]["text"].split("\n") for row in order}
    times, seen, left = Counter(chain(*lines.values())), set(), {}
    for url, own in lines.items():
        kept = []
        for line in own:
            if times[line] < least or line not in seen:
                kept.append(line)
            seen.add(line)
        left[url] = "\n".join(kept)
    return {url: text for url, text in left.items() if text}


@pytest.mark.parametrize(("seed", "least"), [(1, 2), (2, 3)])
def test_lines_are_those_of_a_plain_loop_in_any_parts(tmp_path: Path, seed: int, least: int):
    order = random.Random(seed)
    pages = [
        page(str(i), "\n".join(f"line {order.randrange(40)}" for _ in range(order.randrange(1, 6))))
        for i in range(30)
    ]
    expected = by_hand(pages, least)
    for name, cut in (("a", 4), ("b", 29)):
        texts, _ = run(
            tmp_path / name, Passages(unit="line", least=least), pages[:cut], pages[cut:]
        )
        assert texts == expected
        order.shuffle(pages)
