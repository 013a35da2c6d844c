"""`mixwright train-filter` as a user runs it, on one device and on two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from filters.clip import WEIGHTS
from tests.trainer.networks import shape_pairs, tiny_network
from trainer.train_filter import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("given")
    return str(shape_pairs(folder / "pairs")), str(tiny_network(folder / "network"))


def command(*words: object) -> Result:
    """The command in this process, whose imports take longer than what it does here."""
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, [*map(str, words)])


def started(*words: object) -> "subprocess.CompletedProcess[str]":
    """The command as it is started."""
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "train-filter", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


OPTIONS = ("--batch", 16, "--steps", 12, "--learning-rate", 3e-3, "--workers", 0)


def test_two_devices_arrive_at_the_weights_of_one(given: tuple[str, str], tmp_path: Path) -> None:
    """Up to rounding: each computes half of a batch, against the texts and pictures of both."""
    pairs, network = given
    common = (pairs, "--model", network, "--held-out", "place 4", "--device", "cpu", *OPTIONS)
    one = command(*common, "--out", tmp_path / "one")
    assert (one.exit_code, one.stderr) == (0, "")
    two = started(*common, "--out", tmp_path / "two", "--devices", 2)
    assert two.returncode == 0, two.stderr
    start = load_file(Path(network) / WEIGHTS)
    alone, together = (load_file(tmp_path / name / WEIGHTS) for name in ("one", "two"))
    for name, value in alone.items():
        assert torch.allclose(value, together[name], atol=2e-4), name
    assert max((alone[name] - start[name]).abs().max() for name in alone) > 0.01
    figures = [json.loads((tmp_path / n / "training.json").read_text()) for n in ("one", "two")]
    assert figures[0]["settings"] == figures[1]["settings"]
    assert figures[0]["pairs"] == figures[1]["pairs"]
    assert figures[0]["gain"] == pytest.approx(figures[1]["gain"], abs=0.02)
    assert two.stdout.count("pairs to train on") == 1


def test_the_result_says_by_how_much_the_network_is_better_or_worse(
    given: tuple[str, str], tmp_path: Path
) -> None:
    pairs, network = given
    out = tmp_path / "out"
    common = (pairs, "--model", network, "--out", out, "--held-out", "place 4", *OPTIONS)
    done = command(*common)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "80 pairs to train on, 16 held out"
    said = json.loads((out / "training.json").read_text())
    before, after = said["auc"]["before"], said["auc"]["after"]
    gain = after["pooled"] - before["pooled"]
    assert said["gain"] == gain
    assert f"{gain:+.4f} AUC" in lines[-1]
    (row,) = (line.split() for line in lines if line.startswith("place 4"))
    assert row[2:5] == ["16", f"{before['place 4']:.4f}", f"{after['place 4']:.4f}"]
    assert said["pairs"]["trained_on"] == 80 and len(said["pairs"]["sha256"]) == 64
    assert said["settings"]["steps"] == 12 and said["settings"]["seed"] == 0
    # The same command has nothing to do; another one must say so.
    assert command(*common).exit_code == 0
    other = command(*common, "--seed", 1)
    assert other.exit_code == 1
    assert "trained with another seed: start fresh, or write to another folder" in other.stderr
    assert command(*common, "--seed", 1, "--fresh").exit_code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nowhere",), 2, "nowhere: neither a run, nor shards, nor a folder of"),
        (("{pairs}", "--held-out", "x"), 2, "--held-out x: no such source; there are place 0"),
        (("{pairs}", "--batch", "99"), 2, "a batch of 99 of 47 pairs to train on"),
        (("{pairs}", "--batch", "16", "--model", "no/such"), 1, "no/such is no network's folder"),
        (("{pairs}", "--batch", "one"), 2, "Invalid value for '--batch'"),
    ],
)
def test_what_is_wrong_is_named(
    words: tuple[str, ...], code: int, message: str, given: tuple[str, str], tmp_path: Path
) -> None:
    done = command(*(word.format(pairs=given[0]) for word in words), "--out", tmp_path / "out")
    assert done.exit_code == code
    assert message in done.stderr


def test_help_has_the_options_and_examples() -> None:
    done = started("--help")
    assert done.returncode == 0
    for word in ("Usage: mixwright train-filter", "--lock-image", "--devices", "Examples", "clip:"):
        assert word in done.stdout
