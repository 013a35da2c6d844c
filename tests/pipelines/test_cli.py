"""The command line: what each command prints, which exit code it ends with, how mistakes are told.

Exit codes: 0 done, 1 failed, 2 a mistake in the command or the recipe, 130 and 143 stopped by a
signal (test_run.py).
"""

import re
import resource
import subprocess
import sys
import tarfile
from multiprocessing import forkserver
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from configs.reading import ConfigError
from pipelines.cli import app
from pipelines.config.recipe import Recipe, load_recipe
from shards import ledger
from shards.loader import open_shards
from shards.storage import read_table
from tests.pipelines.small import CONFIGS

COMMANDS = ["run", "demo", "train", "status", "inspect", "why", "tune", "verify", "report"]


def mixwright(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def fails(code: int, *arguments: object) -> str:
    """What a command that fails with `code` says on standard error; nothing else is printed."""
    result = mixwright(*arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert "Traceback" not in result.stderr
    return str(result.stderr)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe of one corpus, whose table exists."""
    (tmp_path / "urls.tsv").write_text("url\tcaption\nhttp://a.example/1.png\tA cat on a mat.\n")
    tree = {
        "name": "x",
        "out": str(tmp_path / "run"),
        "corpora": {
            "captions": {
                "read": {"files": [str(tmp_path / "urls.tsv")]},
                "steps": [{"filter": ["caption_words"]}, "download"],
            }
        },
        "mix": {"weights": {"captions": 1}},
    }
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


HEAVY = ("apache_beam", "torch", "pyarrow", "open_clip")
WATCHED = f"""
import sys
from pipelines.cli import app
try:
    app(sys.argv[1:])
finally:
    loaded = [name for name in {HEAVY} if name in sys.modules]
    print(f"loaded {{loaded}}", file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["", *COMMANDS, "config", "config show"])
def test_help_answers_at_once_and_loads_no_engine_and_no_model(command: str):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    asked = [sys.executable, "-c", WATCHED, *command.split(), "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Usage:" in done.stdout
    assert done.stderr == "loaded []\n"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_begins_with_the_command(command: str):
    assert f"mixwright {command} " in mixwright(command, "--help").stdout.split("Examples")[1] + " "
    assert command in mixwright("--help").stdout


def test_version():
    result = mixwright("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "mixwright")


def test_a_command_that_does_not_exist_is_a_mistake():
    assert "No such command 'frobnicate'" in fails(2, "frobnicate")
    assert "Missing argument" in fails(2, "run")


def test_config_show_is_a_recipe_with_every_default(tmp_path: Path, recipe: Path):
    result = mixwright("config", "show", recipe, "--set", "mix.seq_len=2048")
    assert result.exit_code == 0
    shown = yaml.safe_load(result.stdout)
    assert (shown["mix"]["seq_len"], shown["mix"]["image_tokens"]) == (2048, 144)
    again = tmp_path / "again.yaml"
    again.write_text(result.stdout)
    assert load_recipe(again) == load_recipe(recipe, ["mix.seq_len=2048"])


@pytest.mark.parametrize("name", ["demo.yaml", "mm1.yaml"])
def test_config_show_of_the_recipes_that_come_with_it(name: str):
    result = mixwright("config", "show", CONFIGS / name)
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout)["name"] == Path(name).stem


def test_a_dry_run_names_every_stage_and_does_nothing(tmp_path: Path, recipe: Path):
    result = mixwright("run", recipe, "--dry-run")
    assert result.exit_code == 0
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert [name for name, _ in lines[:2]] == ["captions/read", "captions/filter"]
    assert [name for name, _ in lines[-2:]] == ["pack", "shards"]
    assert {why for _, why in lines} == {"run: new"}
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_one_stage_names_what_it_needs(recipe: Path):
    result = mixwright("run", recipe, "--dry-run", "--only", "captions/filter")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "captions/read",
        "captions/filter",
    ]


def test_a_mistake_in_a_recipe_names_file_key_and_what_is_allowed(recipe: Path):
    for command in (["run"], ["config", "show"]):
        said = fails(2, *command, recipe, "--set", "mix.sequence=9", "--set", "seed=many")
        first, second = sorted(said.splitlines(), key=lambda line: "seed" in line)
        assert f"{recipe}: mix.sequence: unknown key; allowed: weights, seq_len" in first
        assert f"{recipe}: seed: " in second and "found 'many'" in second


def test_other_mistakes_name_their_mend(tmp_path: Path, recipe: Path):
    assert "write it as key=value" in fails(2, "run", recipe, "--set", "seed")
    assert "no such stage; there are captions/read" in fails(2, "run", recipe, "--only", "captoins")
    assert "nowhere.yaml: cannot be read" in fails(2, "run", tmp_path / "nowhere.yaml")
    table = "corpora.captions.read.files=['/nowhere/*.tsv']"
    said = fails(2, "run", recipe, "--set", table)
    assert "corpora.captions.read.files: no file matches '/nowhere/*.tsv'" in said
    assert "not the sample (no pages.tsv)" in fails(2, "demo", "--sample", tmp_path)


@pytest.mark.parametrize("command", ["status", "inspect", "tune", "verify", "report"])
def test_a_folder_that_is_not_there_fails_with_its_name(tmp_path: Path, command: str):
    assert str(tmp_path / "none") in fails(1, command, tmp_path / "none")


def test_a_folder_of_something_else_fails_with_what_was_expected(tmp_path: Path):
    assert "manifest.json is missing" in fails(1, "verify", tmp_path)
    assert "no manifest.json, no run.json and no Parquet file" in fails(1, "inspect", tmp_path)
    assert f"{tmp_path}/none/run.json" in fails(1, "why", tmp_path / "none", "x")


# On the small run


def test_a_finished_run_has_nothing_to_do(small_run: Recipe):
    path = small_run.out.parent / "r.yaml"
    result = mixwright("run", path, "--dry-run")
    assert result.exit_code == 0
    assert {line.split(maxsplit=1)[1] for line in result.stdout.splitlines()} == {"skip: done"}
    result = mixwright("run", path)
    assert result.exit_code == 0
    assert result.stdout.endswith("stages are done; nothing to do\n")


def test_why_a_caption_was_dropped(small_run: Recipe):
    drops = ledger.read_drops(
        ledger.current(small_run.out / "captions" / "filter_images-2")
    ).to_pylist()
    row = next(row for row in drops if row["unit"] == "document")
    result = mixwright("why", small_run.out, row["url"])
    assert result.exit_code == 0
    first, *_, last = result.stdout.splitlines()
    assert first.startswith(f"{row['id']}  captions/read ")
    assert last.startswith(f"{row['id']}  captions/filter_images-2 ")
    assert last.endswith(f"dropped: image_low_similarity ({row['detail']})")


def test_why_a_page_was_dropped_says_what_was_measured_and_the_bound(small_run: Recipe):
    drops = ledger.read_drops(ledger.current(small_run.out / "text" / "filter")).to_pylist()
    row = next(row for row in drops if row["reason"] == "gopher_too_few_words")
    last = mixwright("why", small_run.out, row["url"]).stdout.splitlines()[-1]
    found = re.search(r"dropped: gopher_too_few_words \((\d+) < 50\)$", last)
    assert found and int(found[1]) <= len(row["content"].split())


def test_why_a_page_is_in_the_shards(small_run: Recipe):
    shards = ledger.current(small_run.out / "shards")
    index = read_table(shards / "mixwright-00000.parquet").to_pylist()
    row = next(row for row in index if row["corpus"] == "interleaved" and row["documents"])
    result = mixwright("why", small_run.out, row["documents"][0])
    place = f"in the shards (mixwright-00000.tar, sequence {row['position']})"
    assert any(line.endswith(place) for line in result.stdout.splitlines())


def test_why_of_what_was_never_read_fails(small_run: Recipe):
    said = fails(1, "why", small_run.out, "http://nowhere.example/")
    assert f"{small_run.out} never read http://nowhere.example/" in said


def test_verify_counts_what_it_checked(small_run: Recipe):
    result = mixwright("verify", small_run.out / "shards")
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"{len(open_shards(small_run.out / 'shards'))} sequences verified" in result.stdout


def test_verify_names_a_damaged_shard_and_fails(small_run: Recipe, tmp_path: Path):
    for file in ledger.current(small_run.out / "shards").glob("m*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tar = tmp_path / "mixwright-00001.tar"
    with tarfile.open(tar) as members:
        offset = members.getmembers()[1].offset_data
    data = bytearray(tar.read_bytes())
    data[offset] ^= 1
    tar.write_bytes(data)
    said = fails(1, "verify", tmp_path)
    assert "mixwright-00001.tar" in said and "problems" in said
    assert "mixwright-00000.tar" not in said


def test_inspect_a_run_its_shards_and_its_documents(small_run: Recipe):
    run = mixwright("inspect", small_run.out)
    shards = mixwright("inspect", small_run.out / "shards")
    folder = ledger.current(small_run.out / "text" / "dedupe")
    documents = mixwright("inspect", folder / "documents")
    assert [r.exit_code for r in (run, shards, documents)] == [0, 0, 0]
    assert run.stdout.endswith(shards.stdout)
    kept = ledger.read_counts(folder).kept["document"]
    found = dict(line.split(maxsplit=1) for line in documents.stdout.splitlines()[:3])
    assert found["documents"] == str(kept)


def test_report_prints_the_page_that_it_wrote(small_run: Recipe, tmp_path: Path):
    """In a copy by links, because a report is written into its run."""
    copy = tmp_path / "run"
    copy.mkdir()
    for path in small_run.out.iterdir():
        (copy / path.name).symlink_to(path)
    result = mixwright("report", copy)
    assert result.exit_code == 0
    page = Path(result.stdout.strip())
    assert page.parent == copy
    assert "<html" in page.read_text(encoding="utf-8")


def test_status_of_a_finished_run(small_run: Recipe):
    result = mixwright("status", small_run.out)
    assert result.exit_code == 0
    _, *lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        name for name, _ in ledger.stage_folders(small_run.out)
    ]
    assert all(" done, " in line for line in lines)


def test_tune_tells_of_every_rule_what_it_did(small_run: Recipe):
    result = mixwright("tune", small_run.out, "text/filter")
    assert result.exit_code == 0
    counts = ledger.read_counts(ledger.current(small_run.out / "text" / "filter"))
    title, heads, *rows, _ = result.stdout.splitlines()
    kept, read = counts.kept["document"], counts.read["document"]
    assert title.startswith(f"text/filter: {kept:,} of {read:,} (")
    assert " ".join(heads.split()) == "rule bound measured kept first alone 5% 50% 95%"
    first = {row.split()[0]: re.split(r"\s{2,}", row)[5] for row in rows}
    dropped = counts.dropped["document"]
    assert {rule: int(n) for rule, n in first.items() if n != "0"} == dropped
    every = mixwright("tune", small_run.out).stdout
    assert {"text/filter:", "captions/filter_images-2:", "interleaved/filter_images:"} <= set(
        every.split()
    )


def test_tune_answers_what_other_bounds_would_keep(small_run: Recipe):
    folder = ledger.current(small_run.out / "captions" / "filter_images-2")
    counts = ledger.read_counts(folder)
    asked = ["tune", small_run.out, "captions/filter_images-2", "--set", "image_low_similarity=off"]
    result = mixwright(*asked)
    assert result.exit_code == 0
    read, kept = counts.read["document"], counts.kept["document"]
    lines = result.stdout.splitlines()
    assert lines[0] == "captions/filter_images-2"
    assert lines[1].startswith("  image_low_similarity: >= ") and lines[1].endswith(", here off")
    whole = lines.index("documents")
    assert lines[whole + 1].split()[2:5] == [f"{kept:,}", "of", f"{read:,}"]
    assert lines[whole + 2].split()[3:7] == [f"{read:,}", "of", f"{read:,}", "(100.0%)"]
    assert lines[whole + 3].split() == ["newly", "kept", f"{read - kept:,}"]


def test_tune_finds_the_bound_that_keeps_a_share(small_run: Recipe):
    asked = [
        "tune",
        small_run.out,
        "captions/filter_images-2",
        "--target-kept",
        "image_low_similarity=0.3",
    ]
    result = mixwright(*asked)
    assert result.exit_code == 0
    found = re.search(r"would be kept .* \(([\d.]+)%\)", result.stdout)
    assert found and abs(float(found[1]) - 30) < 5


def test_mistakes_in_tuning_name_what_there_is(small_run: Recipe):
    said = fails(2, "tune", small_run.out, "--set", "gopher_to_few_words=3")
    assert "no rule gopher_to_few_words; the rules are: captions/filter: " in said
    assert "gopher_too_few_words" in said
    assert "no such stage with measures; there are" in fails(2, "tune", small_run.out, "text/x")
    said = fails(2, "tune", small_run.out, "--set", "image_low_similarity=0")
    both = "captions/filter_images-2, interleaved/filter_images-2"
    assert f"name one of the stages that have the rule: {both}" in said
    assert "write it as RULE=VALUE" in fails(2, "tune", small_run.out, "--set", "words")


LOOKING = [
    ["status", ""],
    ["inspect", ""],
    ["tune", ""],
    ["inspect", "shards"],
    ["verify", "shards"],
]


@pytest.mark.parametrize("words", LOOKING)
def test_looking_at_a_run_loads_no_engine_and_no_model(small_run: Recipe, words: list[str]):
    command, folder = words
    asked = [sys.executable, "-c", WATCHED, command, str(small_run.out / folder)]
    done = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert done.stderr == "loaded ['pyarrow']\n"


# Engines


def test_an_engine_without_an_address_is_a_mistake_with_its_mend(recipe: Path):
    said = fails(2, "run", recipe, "--runner", "spark")
    assert "runner.spark: needs job_endpoint (host:port of a Beam job server) or master" in said
    assert not (recipe.parent / "run").exists()


def test_a_runner_on_the_command_line_goes_over_the_recipes(recipe: Path):
    spark = ["--set", "runner.engine=flink", "--runner", "spark"]
    assert "runner.spark: " in fails(2, "run", recipe, *spark)
    assert "'local', 'spark', 'flink' or 'dataflow'" in fails(2, "run", recipe, "--runner", "ray")


def test_other_engines_keep_no_process_to_fork_workers_from(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
):
    def plan(*_: object) -> None:
        raise ConfigError(f"forked from {forkserver._forkserver._forkserver_pid}")  # type: ignore[attr-defined]

    monkeypatch.setattr("pipelines.run.plan", plan)
    assert "forked from None" in fails(2, "run", recipe, "--runner", "dataflow")
    assert re.search(r"forked from \d+", fails(2, "run", recipe))


def test_an_option_that_beam_does_not_take_is_a_mistake(recipe: Path):
    said = fails(2, "run", recipe, "--set", "runner.options.direct_num_workers=many")
    assert said == (
        "error: runner.options: argument --direct_num_workers: invalid int value: 'many'\n"
    )
