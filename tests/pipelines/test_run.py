"""Runs end to end: nothing is done twice, nothing is lost, and a kill changes no byte."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import run
from pipelines.config import Recipe, load_recipe
from pipelines.recipe import selected, stages_of
from pipelines.run import plan
from pipelines.site import Site
from shards import ledger
from shards.verify import verify
from tests.pipelines.small import run_quietly, small_recipe


def shard_hashes(folder: Path) -> dict[str, str]:
    files = sorted([*(folder / "shards").glob("mixwright-*"), folder / "shards" / "manifest.json"])
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
    assert run_quietly(small_run) == []
    assert {p: p.stat().st_mtime_ns for p in small_run.out.rglob("*") if p.is_file()} == before


def test_a_changed_threshold_runs_only_what_depends_on_it(small_run: Recipe):
    spec = small_run.corpora.captions.keep[0].model_copy(update={"thresholds": {"min": 0.2}})
    assert to_run(changed(small_run, "captions", keep=[spec])) == {
        "captions/keep": "its config changed",
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
        "interleaved/dedupe",
        "interleaved/image_copies",
        "text/dedupe",
    }
    assert "captions/score" in why
    assert "captions/download" not in why


def test_the_address_of_the_server_is_no_part_of_a_result(small_run: Recipe):
    elsewhere = small_run.download.model_copy(
        update={"connect_to": {"*.mixwright.example": "127.0.0.1:1"}}
    )
    assert to_run(small_run.model_copy(update={"download": elsewhere})) == {}


def test_only_names_a_stage_with_what_it_reads(small_run: Recipe):
    names = [s.name for s in selected(stages_of(small_run), "text/filters")]
    assert names == ["text/extract", "text/language", "text/filters"]
    with pytest.raises(ValueError, match="captions/keep"):
        selected(stages_of(small_run), "captoins")


def start(recipe: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipe)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def kill_when(process: "subprocess.Popen[bytes]", folder: Path, pattern: str, count: int) -> bool:
    """Kill the whole process group once `count` files match; whether it was still running."""
    while process.poll() is None:
        if sum(1 for _ in folder.glob(pattern)) >= count:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    return False


# Files whose appearance marks a moment, in the order of the run: in the middle of a download, of a
# keyed stage, of a filter, of packing, and of the shards.
MOMENTS = [
    ("captions/.download.*/store/*.parquet", 1),
    ("text/.dedupe.*/counts/*.json", 1),
    ("interleaved/.image_filters.*/counts/*.json", 1),
    (".pack.*/counts/*.json", 2),
    (".shards.*/mixwright-*.tar", 1),
]


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    small_run: Recipe, small_input: Path, site: Site, tmp_path: Path
):
    """With one worker, so that the hashes also say that workers do not matter."""
    path = small_recipe(tmp_path / "r.yaml", tmp_path / "run", small_input, site, workers=1)
    kills = sum(kill_when(start(path), tmp_path / "run", *moment) for moment in MOMENTS)
    assert kills >= 4, "the run was too fast to be killed"
    assert start(path).wait() == 0
    assert shard_hashes(tmp_path / "run") == shard_hashes(small_run.out)
    leftovers = [p for p in (tmp_path / "run").rglob(".*") if p.is_dir()]
    assert leftovers == []
    assert to_run(load_recipe(path)) == {}
