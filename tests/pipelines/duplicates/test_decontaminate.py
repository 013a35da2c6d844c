"""The step that looks for evaluation sets: what it reads, drops, reports and leaves behind."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from configs.reading import ConfigError
from pipelines.config.steps import Decontaminate, Step
from pipelines.duplicates.decontaminate import (
    decontaminate_stage,
    load_index,
    read_items,
    set_names,
)
from pipelines.stage import Place
from shards import ledger, measures, schema
from shards.measures import Bound
from shards.storage import read_table
from shards.stores.options import StorageOptions
from shards.why import why
from tests.pipelines.by_hand import kept, run_stage, source, write_stage

QUESTION = "How many wooden clips did the old Natalia sell to her friends in May and June?"
ANSWER = "She sold exactly two hundred of them altogether."
ITEM = {"question": QUESTION, "answers": [{"text": ANSWER}, {"text": "two"}], "id": 7}
RUN = "how many wooden clips did the old natalia sell to her friends"


def prose(*texts: str) -> pa.Table:
    return schema.documents(
        schema.document("web", f"http://a.example/{i}", [schema.text_part(text)])
        for i, text in enumerate(texts)
    )


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    folder = tmp_path / "eval"
    (folder / "maths").mkdir(parents=True)
    (folder / "maths" / "test.jsonl").write_text(json.dumps(ITEM) + "\n\n")
    (folder / "lines.txt").write_text("Short.\nA line of eight words, neither more nor less.\n")
    return folder


def run(tmp_path: Path, *parts: pa.Table, files: Path | None = None, **options: Any) -> Place:
    asked = Decontaminate(files=[f"{files or tmp_path / 'eval'}/**/*.*"], **options)
    stage = decontaminate_stage("text/x", source("text/read"), asked, StorageOptions())
    return run_stage(stage, tmp_path / "x", [write_stage(tmp_path / "read", parts)])


PAGES = ["Clean.", f"A blog: {QUESTION.upper()}", f"{ANSWER} {QUESTION}"]


def test_a_contaminated_document_is_dropped_and_set_and_n_gram_are_named(
    sets: Path, tmp_path: Path
):
    first, second = (
        prose(*PAGES),
        prose("A line of 8 words: a LINE of eight words neither more nor less"),
    )
    place = run(tmp_path, first, second, prose())
    assert kept(place) == [first["id"].to_pylist()[:1], [], []]
    rows = ledger.read_drops(place.out).to_pylist()
    assert {(row["reason"], row["kind"]) for row in rows} == {("contaminated", "dropped")}
    assert [row["detail"] for row in rows] == [
        f"maths/test.jsonl: {RUN} in and 3 more",
        "maths/test.jsonl: she sold exactly two hundred of them altogether and 4 more",
        "lines.txt: a line of eight words neither more nor less",
    ]
    assert ledger.read_counts(place.out).dropped == {"document": {"contaminated": 3}}


def test_measures_say_how_much_was_found_and_a_document_may_have_some(sets: Path, tmp_path: Path):
    place = run(tmp_path, prose(*PAGES), max_ngrams=4)
    table = read_table(place.out / "measures" / "part-00000.parquet")
    assert table["contaminated"].to_pylist() == [0, 4, 5]
    assert measures.bounds(place.out) == [Bound("contaminated", max=4)]
    assert [len(part) for part in kept(place)] == [2]


def test_only_reported_documents_are_kept_and_in_the_ledger(sets: Path, tmp_path: Path):
    place = run(tmp_path, prose(*PAGES), report_only=True)
    assert kept(place) == [prose(*PAGES)["id"].to_pylist()]
    rows = ledger.read_drops(place.out).to_pylist()
    assert [(row["kind"], row["content"]) for row in rows] == [
        ("reported", PAGES[1]),
        ("reported", PAGES[2]),
    ]
    assert ledger.read_counts(place.out) == ledger.Counts(
        {"document": 3}, {"document": 3}, reported={"document": {"contaminated": 2}}
    )
    assert measures.bounds(place.out) == [Bound("contaminated")]


def test_n_grams_that_many_documents_have_are_ignored_wherever_these_are(
    sets: Path, tmp_path: Path
):
    both = f"{ANSWER} {QUESTION}"
    parts = [prose("Clean.", f"1 {QUESTION}"), prose(f"2 {QUESTION} {QUESTION}", "x"), prose(both)]
    for most, left in ((3, [1, 1, 0]), (2, [2, 2, 0]), (1, [2, 2, 0])):
        place = run(tmp_path / str(most), *parts, files=sets, max_documents=most)
        assert [len(part) for part in kept(place)] == left
    # What it is dropped for is the n-gram that no other document has.
    (row,) = ledger.read_drops(place.out).to_pylist()
    assert row["detail"] == "maths/test.jsonl: she sold exactly two hundred of them altogether"
    table = read_table(place.out / "measures" / "part-00001.parquet")
    assert table["contaminated"].to_pylist() == [0, 0]


def test_only_some_fields_are_looked_for(sets: Path, tmp_path: Path):
    (sets / "lines.txt").unlink()
    place = run(tmp_path, prose(*PAGES), fields=["answers"])
    assert kept(place) == [prose(*PAGES)["id"].to_pylist()[:2]]


ROWS = [{"q": "A question?", "a": ["yes", "no"]}, {"q": "Ünï", "a": []}]
TEXTS = ["A question?", "yes", "no", "Ünï"]


def write_items(folder: Path, name: str) -> Path:
    """Two items in the format that a file's name says."""
    file = folder / name
    flat = [("q", "n"), *((row["q"], "1") for row in ROWS)]
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    plain = {
        ".jsonl": lines,
        ".json": json.dumps(ROWS),
        ".txt": "A question?\r\nÜnï",
        ".csv": "\ufeff" + "\n".join(f'"{a}",{b}' for a, b in flat),
        ".tsv": "\n".join("\t".join(row) for row in flat),
    }
    kind = "." + name.split(".")[1]
    if kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), file)
        return file
    data = plain[kind].encode()
    packed = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    file.write_bytes(packed.get(file.suffix, bytes)(data))
    return file


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "jsonl.gz", "json.zst"])
def test_every_string_of_a_row_is_an_item_or_those_of_some_fields(kind: str, tmp_path: Path):
    file = write_items(tmp_path, f"items.{kind}")
    assert list(read_items(file)) == TEXTS
    assert list(read_items(file, ["q"])) == ["A question?", "Ünï"]
    assert list(read_items(file, ["a"])) == ["yes", "no"]


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt", "csv.gz", "txt.zst"])
def test_columns_and_lines(kind: str, tmp_path: Path):
    file = write_items(tmp_path, f"items.{kind}")
    assert list(read_items(file, ["q"])) == ["A question?", "Ünï"]


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zstandard.compress)])
def test_a_file_of_several_members(tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]):
    file = tmp_path / f"items.txt.{suffix}"
    file.write_bytes(pack(b"one\n") + pack(b"two\n"))
    assert list(read_items(file)) == ["one", "two"]


def test_sets_are_named_by_their_paths_below_the_common_folder():
    files = [Path("/e/mmlu/test.jsonl"), Path("/e/arc/test.jsonl"), Path("/e/lines.txt")]
    assert set_names(files) == ["mmlu/test.jsonl", "arc/test.jsonl", "lines.txt"]
    assert set_names(files[:1]) == ["test.jsonl"]


def test_the_index_is_made_once_and_left_in_the_stage(sets: Path, tmp_path: Path):
    place = run(tmp_path, prose(*PAGES))
    files = sorted(sets.rglob("*.*"))
    named = tuple(zip(set_names(files), files, strict=True))
    for file in files:
        file.unlink()
    load_index.cache_clear()
    index = load_index(place.out, named, (), 13, 8)
    assert index.items["set"].to_pylist() == ["lines.txt"] * 2 + ["maths/test.jsonl"] * 3
    hashes = np.asarray(index.ngrams["hash"])
    assert [(g.n, len(g.hashes)) for g in index.grams] == [(8, 1), (9, 1), (13, 4)]
    assert hashes.dtype == np.uint64
    assert load_index(place.out, named, (), 13, 8) is index


def test_an_evaluation_set_that_cannot_be_read_ends_the_run(sets: Path, tmp_path: Path):
    """Otherwise the run would say that its text is clean."""
    (sets / "broken.jsonl").write_text('{"question": "ok"}\n{"question": ')
    with pytest.raises(Exception, match=r"broken\.jsonl cannot be read as \.jsonl"):
        run(tmp_path, prose(*PAGES))
    (sets / "broken.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(Exception, match=r"broken\.jsonl: no text in it"):
        run(tmp_path, prose(*PAGES))
    with pytest.raises(Exception, match=r"no text in the fields prompt"):
        run(tmp_path, prose(*PAGES), fields=["prompt"])


def test_mistakes_in_the_recipe(sets: Path, tmp_path: Path):
    (sets / "notes.pdf").write_text("")
    with pytest.raises(ConfigError, match=r"notes\.pdf is none of \.txt, \.jsonl"):
        run(tmp_path, prose())
    asked = Decontaminate(files=[str(tmp_path / "none/*")])
    with pytest.raises(ConfigError, match=r"steps\.decontaminate\.files: no file matches"):
        decontaminate_stage("x", source("y"), asked, StorageOptions())
    with pytest.raises(ValidationError):
        Step.model_validate({"decontaminate": {"files": []}})


def test_why_tells_what_was_found(sets: Path, tmp_path: Path):
    place = run(tmp_path, prose(*PAGES), report_only=True)
    run_folder = tmp_path / "run"
    (run_folder / "text").mkdir(parents=True)
    (run_folder / "text/x").symlink_to(place.out.parent)
    (run_folder / ledger.RUN_FILE).write_text('{"stages": ["text/x"]}')
    said = json.loads((place.out.parent / ledger.STAGE_FILE).read_text())
    said["pieces"] = {"inputs": {"text/read": "x"}}
    (place.out.parent / ledger.STAGE_FILE).write_text(json.dumps(said))
    (answer,) = why(run_folder, "http://a.example/1")
    assert (answer.outcome, answer.reason) == ("reported", "contaminated")
    assert str(answer.detail).startswith(f"maths/test.jsonl: {RUN}")
