"""Runs end to end: nothing is done twice, nothing is lost, and a kill changes no byte."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import psutil
import pyarrow as pa
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from typer.testing import CliRunner

from pipelines import run
from pipelines.cli import app
from pipelines.config.recipe import Recipe, load_recipe
from pipelines.config.steps import Step
from pipelines.engines.dataflow import shuffles
from pipelines.fetching.site import Site
from pipelines.recipe import selected, stages_of
from pipelines.run import plan
from pipelines.stage import Place, Stage
from pipelines.terminal.status import read_status
from shards import ledger, schema
from shards.storage import read_table
from shards.verify import verify
from tests.pipelines.background import captions_recipe, finish, held_server, mixwright
from tests.pipelines.small import small_recipe


def shard_hashes(folder: Path) -> dict[str, str]:
    shards = ledger.current(folder / "shards")
    files = sorted([*shards.glob("mixwright-*"), shards / "manifest.json"])
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def to_run(recipe: Recipe) -> dict[str, str]:
    return {p.stage.name: p.why for p in plan(recipe.out, stages_of(recipe)) if not p.done}


def changed(recipe: Recipe, corpus: str, **update: object) -> Recipe:
    corpora = recipe.corpora
    new = getattr(corpora, corpus).model_copy(update=update)
    return recipe.model_copy(update={"corpora": corpora.model_copy(update={corpus: new})})


def test_the_shards_verify(small_run: Recipe):
    assert verify(small_run.out / "shards") == []


def test_every_stage_adds_up_and_reads_what_the_one_before_kept(small_run: Recipe):
    kept: dict[str, int] = {}
    for name, folder in ledger.stage_folders(small_run.out):
        counts = ledger.read_counts(folder)
        counts.check(name)
        corpus = name.split("/")[0]
        if corpus in kept:
            assert counts.read["document"] == kept[corpus], name
        kept[corpus] = counts.kept.get("document", 0)
    assert {"captions", "interleaved", "text", "pack", "shards"} == set(kept)


def test_dropped_rows_are_as_many_as_the_counts_say(small_run: Recipe):
    for name, folder in ledger.stage_folders(small_run.out):
        counts = ledger.read_counts(folder)
        drops = ledger.read_drops(folder)
        for unit in counts.read:
            rows = sum(row == unit for row in drops["unit"].to_pylist())
            assert rows == counts.lost(unit), name


def test_a_second_run_does_nothing(small_run: Recipe):
    before = {p: p.stat().st_mtime_ns for p in small_run.out.rglob("*") if p.is_file()}
    result = CliRunner().invoke(app, ["run", str(small_run.out.parent / "r.yaml")])
    assert (result.exit_code, "nothing to do" in result.stdout) == (0, True)
    assert {p: p.stat().st_mtime_ns for p in small_run.out.rglob("*") if p.is_file()} == before


def test_a_changed_threshold_runs_only_what_depends_on_it(small_run: Recipe):
    *before, last = small_run.corpora.captions.steps
    spec = last.options[0].model_copy(update={"thresholds": {"min": 0.2}})
    steps = [*before, Step(filter_images=[spec])]
    assert to_run(changed(small_run, "captions", steps=steps)) == {
        "captions/filter_images-2": "its config changed",
        "pack": "its inputs changed",
        "shards": "its inputs changed",
    }


def test_another_weight_writes_new_shards_of_the_same_sequences(small_run: Recipe):
    mix = small_run.mix.model_copy(update={"weights": {"captions": 1, "text": 1}})
    assert "pack" in to_run(small_run.model_copy(update={"mix": mix}))  # a corpus less
    mix = small_run.mix.model_copy(
        update={"weights": {"captions": 10, "interleaved": 50, "text": 40}}
    )
    assert list(to_run(small_run.model_copy(update={"mix": mix}))) == ["shards"]


def test_changed_code_runs_the_stages_whose_rules_import_it(
    small_run: Recipe, monkeypatch: pytest.MonkeyPatch
):
    source = run._source
    monkeypatch.setattr(
        run, "_source", lambda name: source(name) + b"# more" * (name == "filters.minhash")
    )
    why = to_run(small_run)
    assert {name for name, reason in why.items() if "code" in reason} == {
        "captions/dedupe",
        "interleaved/copies",
        "interleaved/dedupe",
        "text/dedupe",
    }
    assert "captions/clip" in why
    assert "captions/download" not in why


def test_the_address_of_the_server_is_no_part_of_a_result(small_run: Recipe):
    elsewhere = small_run.download.model_copy(
        update={"connect_to": {"*.mixwright.example": "127.0.0.1:1"}}
    )
    assert to_run(small_run.model_copy(update={"download": elsewhere})) == {}


def test_only_names_a_stage_with_what_it_reads(small_run: Recipe):
    names = [s.name for s in selected(stages_of(small_run), "text/filter")]
    assert names == ["text/extract", "text/language", "text/filter"]
    with pytest.raises(ValueError, match="captions/filter_images-2"):
        selected(stages_of(small_run), "captoins")


def test_nothing_but_tables_of_keys_crosses_a_shuffle(small_run: Recipe):
    """By the coders of the graph that every engine is given: a pickle could hold an image."""
    planned = plan(small_run.out, stages_of(small_run))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam.Pipeline, "run", lambda self: pytest.fail("it ran"))
        pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
        run._build(pipeline, planned, run._places(small_run.out, planned, planned))
    found = shuffles(pipeline.to_runner_api())
    grouped = [coder for name, coder in found if not name.endswith(("spread", "balance"))]
    assert len([coder for coder in grouped if "TableCoder" in coder]) >= 8
    allowed = {"VarIntCoder", "BytesCoder", "TupleCoder[VarIntCoder, TableCoder]"}
    assert [(name, coder) for name, coder in found if coder not in allowed] == []


# Where stages write


def words(word: str, finish: Callable[[Place], None] | None = None) -> Stage:
    """Three parts that say a word; where a file "no WORD" is in the run's folder, only one."""
    return Stage("words", partial(_say, word=word), word, (), parts=lambda _: 3, finish=finish)


def _say(parts: Any, place: Place, word: str) -> Any:
    return parts | "say" >> beam.Map(_say_part, place, word)


def _say_part(part: int, place: Place, word: str) -> int:
    if part > 0 and (place.run / f"no {word}").exists():
        raise ValueError(f"no {word}")
    if not place.has(part):
        nothing, one = schema.DROP.empty_table(), {"document": 1}
        place.write(part, pa.table({"word": [word]}), nothing, read=one, kept=one)
    return part


def run_words(folder: Path, stage: Stage) -> None:
    def watch(_: Any) -> AbstractContextManager[None]:
        return nullcontext()

    options = PipelineOptions(["--runner=FnApiRunner"])
    run.execute(folder, run.plan(folder, [stage]), options, watch=watch, done=lambda *_: None)


def said(folder: Path) -> list[str]:
    """The words of the current output of the stage."""
    files = ledger.part_files(ledger.current(folder / "words"), "documents")
    return [str(word) for file in files for word in read_table(file)["word"].to_pylist()]


def folders(run: Path) -> dict[str, list[str]]:
    """The folders of the stage by the word that their first part says, with their parts."""
    found = {}
    for home in (run / "words").iterdir():
        if home.is_dir():
            (word,) = read_table(home / "documents" / "part-00000.parquet")["word"].to_pylist()
            found[word] = sorted(ledger.parts_done(home))
    return found


def test_a_changed_config_writes_beside_and_then_takes_the_place(tmp_path: Path):
    seen: list[tuple[list[str], list[str]]] = []

    def finish(_: Place) -> None:
        seen.append((sorted(folders(tmp_path)), said(tmp_path)))

    run_words(tmp_path, words("a"))
    before = ledger.current(tmp_path / "words")
    run_words(tmp_path, words("b", finish))
    assert seen == [(["a", "b"], ["a"] * 3)]  # readers have the old output until the new is whole
    assert said(tmp_path) == ["b"] * 3
    assert not before.exists()
    names = sorted(path.name for path in (tmp_path / "words").iterdir())
    assert names == sorted(["stage.json", ledger.current(tmp_path / "words").name])


def test_what_failed_leaves_the_output_as_it_was(tmp_path: Path):
    run_words(tmp_path, words("a"))
    (tmp_path / "no b").touch()
    with pytest.raises(Exception, match="no b"):
        run_words(tmp_path, words("b"))
    assert said(tmp_path) == ["a"] * 3
    assert [p.done for p in plan(tmp_path, [words("a")])] == [True]


def test_partial_folders_coexist_and_each_config_goes_on_with_its_own(tmp_path: Path):
    for word in "ab":
        (tmp_path / f"no {word}").touch()
        with pytest.raises(Exception, match=f"no {word}"):
            run_words(tmp_path, words(word))
    first = ["part-00000"]
    assert folders(tmp_path) == {"a": first, "b": first}

    (home,) = {plan(tmp_path, [words("a")])[0].folder}
    part = tmp_path / "words" / home / "documents" / "part-00000.parquet"
    written = part.stat().st_mtime_ns
    (tmp_path / "no a").unlink()
    run_words(tmp_path, words("a"))
    assert said(tmp_path) == ["a"] * 3
    assert part.stat().st_mtime_ns == written
    assert folders(tmp_path).keys() == {"a"}


def test_another_stages_parts_are_not_taken_for_its_own(tmp_path: Path):
    """Nothing but the fingerprint names a folder to go on with."""
    run_words(tmp_path, words("a"))
    home = ledger.current(tmp_path / "words")
    (home.parent / ledger.STAGE_FILE).unlink()
    home.rename(home.parent / ("0" * 16))
    run_words(tmp_path, words("b"))
    assert said(tmp_path) == ["b"] * 3
    assert folders(tmp_path).keys() == {"b"}


def test_without_its_last_file_a_stage_is_not_done(tmp_path: Path):
    run_words(tmp_path, words("a"))
    (tmp_path / "words" / ledger.STAGE_FILE).unlink()
    assert [p.why for p in plan(tmp_path, [words("a")])] == ["new"]
    home = next(path for path in (tmp_path / "words").iterdir())
    files = {file: file.stat().st_mtime_ns for file in home.rglob("*.parquet")}
    run_words(tmp_path, words("a"))
    assert {file: file.stat().st_mtime_ns for file in home.rglob("*.parquet")} == files


# Signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_told_to_stop_stops_and_can_go_on(
    tmp_path: Path, number: signal.Signals, code: int
):
    command = ("run", tmp_path / "held.yaml", "--only", "captions/download")
    with held_server() as server:
        captions_recipe(tmp_path, server)
        process = mixwright(*command)
        assert server.asked.wait(60), "the download never began"
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        ended = finish(process)
        assert ended == (code, "", "error: stopped; the same command goes on from here\n")
        gone, _ = psutil.wait_procs(workers, timeout=60)
        assert len(gone) == len(workers) > 0
        status = read_status(tmp_path / "run")
        assert status is not None and status.state == "cancelled"
        read = tmp_path / "run" / "captions" / "read"
        before = {file: file.stat().st_mtime_ns for file in read.rglob("*.parquet")}
        assert len(before) == 6  # documents and ledger of three parts
        if number == signal.SIGINT:
            return  # it goes on as after SIGTERM
        server.release.set()
        again, out, _ = finish(mixwright(*command))
    assert again == 0
    assert [line.split()[:4] for line in out.splitlines() if "→" in line] == [
        [f"captions/{name}", "5", "→", "5"] for name in ("read", "filter", "download")
    ]
    assert {file: file.stat().st_mtime_ns for file in read.rglob("*.parquet")} == before


# Found by every Python process of a run: one that is about to give a file its name ends them all.
KILLER = """
import fnmatch, os, signal, sys

def kill(event, given):
    if event == "os.rename" and fnmatch.fnmatch(given[1], os.environ["KILLED_AT"]):
        os.killpg(0, signal.SIGKILL)

sys.addaudithook(kill)
"""


def run_until(file: str, recipe: Path) -> int:
    """The exit code of a run that is killed as it is about to write the file."""
    hook = recipe.parent / "killer"
    hook.mkdir(exist_ok=True)
    (hook / "sitecustomize.py").write_text(KILLER)
    path = os.pathsep.join([str(hook), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "KILLED_AT": f"*/{file}"}
    command = [sys.executable, "-m", "pipelines.cli", "run", recipe]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
    ).wait()


# In the order of the run: amid a download, a keyed stage, a filter, packing, and the shards.
MOMENTS = [
    "captions/download/*/store/host-00003-0000.parquet",
    "text/dedupe/*/counts/part-00001.json",
    "interleaved/filter_images/*/counts/part-00001.json",
    "pack/*/counts/part-00001.json",
    "shards/*/mixwright-00001.tar",
]


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    small_run: Recipe, small_input: Path, site: Site, tmp_path: Path
):
    """With one worker, so that the hashes also say that workers do not matter."""
    path = small_recipe(tmp_path / "r.yaml", tmp_path / "run", small_input, site, workers=1)
    assert [run_until(file, path) for file in MOMENTS] == [-signal.SIGKILL] * len(MOMENTS)
    assert run_until("no such file", path) == 0
    assert shard_hashes(tmp_path / "run") == shard_hashes(small_run.out)
    for name, folder in ledger.stage_folders(tmp_path / "run"):
        beside = {p.name for p in folder.parent.iterdir()} - {ledger.STAGE_FILE}
        assert beside == {folder.name}, name
    assert to_run(load_recipe(path)) == {}
