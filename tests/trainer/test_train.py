import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.reading import check
from shards import storage
from shards.storage import Remote
from tests.servers.s3 import S3Server
from tests.shards.buckets import copy
from trainer import checkpoint
from trainer.config import TrainConfig
from trainer.data import Batch, Examples
from trainer.metrics import Progress
from trainer.train import build_run, evaluate, train


class Killed(Exception):  # noqa: N818
    pass


def kill_at(step: int) -> Progress:
    def progress(line: dict[str, Any]) -> None:
        if line["step"] == step:
            raise Killed

    return progress


def config_of(values: dict[str, Any], out: Path, **changes: Any) -> TrainConfig:
    return check(TrainConfig, values | {"out": str(out)} | changes, "test")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_positions(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The positions of every batch that is read from now on."""
    seen: list[list[int]] = []
    batches = Examples.batches

    def record(self: Examples, steps: Iterable[list[int]]) -> Iterator[Batch]:
        for step in steps:
            seen.append(step)
            yield from batches(self, [step])

    monkeypatch.setattr(Examples, "batches", record)
    return seen


def test_a_short_run_lowers_the_held_out_loss_and_says_how(
    values: dict[str, Any], tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    config = config_of(values, tmp_path, steps=30, eval_every=15, log_every=10)
    result = train(config, told.append)
    assert result.first_loss == pytest.approx(9.0, abs=0.1)  # ln 8192, all words as likely
    assert result.last_loss < result.first_loss - 1
    assert result.steps == 30
    lines = lines_of(result.metrics)
    assert lines == told
    assert [line["step"] for line in lines if "held_out_loss" in line] == [0, 15, 30]
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 30]
    assert lines[-1]["held_out_loss"] == result.last_loss
    assert lines[-2]["mix"] == pytest.approx({"captions": 2 / 3, "text": 1 / 3})
    assert lines[-2]["lr"] == pytest.approx(0.0003)
    assert 0 < lines[-2]["data_wait"] < 1
    assert lines[-2]["tokens_per_second"] > lines[-2]["images_per_second"] > 0


def test_a_killed_run_arrives_at_the_same_weights(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = read_positions(monkeypatch)
    whole = train(config_of(values, tmp_path / "whole"))
    batches = list(seen)
    seen.clear()

    # Killed after update 4: the checkpoint is of update 3, and update 4 must be done again.
    halves = config_of(values, tmp_path / "halves")
    with pytest.raises(Killed):
        train(halves, kill_at(4))
    started_again = len(seen)
    resumed = train(halves)

    for name in (checkpoint.MODEL, checkpoint.OPTIMISER):
        expected, found = load_file(whole.checkpoint / name), load_file(resumed.checkpoint / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    states = [(r.checkpoint / checkpoint.STATE).read_text() for r in (whole, resumed)]
    assert states[0] == states[1]
    assert (resumed.first_loss, resumed.last_loss) == (whole.first_loss, whole.last_loss)
    # The last three updates and the evaluation after them read what the whole run read.
    assert seen[started_again:] == batches[-len(seen[started_again:]) :]
    losses = [
        [(line["step"], line.get("held_out_loss")) for line in lines_of(result.metrics)]
        for result in (whole, resumed)
    ]
    assert losses[0] == losses[1]


def test_held_out_sequences_are_never_trained_on(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(values, tmp_path, steps=12, eval_every=100, eval_batches=1)
    seen = read_positions(monkeypatch)
    train(config)
    first, *trained, last = seen
    assert first == last == [12, 13]  # of 15, a fifth is held out, and one batch is looked at
    assert [position for batch in trained for position in batch] == [*range(12), *range(12)]


def test_a_loss_is_a_sum_over_targets_divided_by_their_number(
    values: dict[str, Any], tmp_path: Path
) -> None:
    run = build_run(config_of(values, tmp_path))
    with torch.no_grad():
        batches = [run.examples.batch([position]) for position in run.held_out]
        alone = [(run.model(batch).item(), batch.targets) for batch in batches]
    expected = sum(loss for loss, _ in alone) / sum(targets for _, targets in alone)
    assert evaluate(run) == pytest.approx(expected, rel=1e-6)


def test_a_finished_run_only_says_what_it_came_to(values: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(values, tmp_path)
    first = train(config)
    before = first.metrics.read_bytes()
    again = train(config)
    assert (again.steps, again.last_loss) == (6, first.last_loss)
    assert again.tokens_per_second == 0
    assert again.metrics.read_bytes() == before


def test_a_checkpoint_of_another_run_is_refused_and_fresh_starts_over(
    values: dict[str, Any], tmp_path: Path
) -> None:
    train(config_of(values, tmp_path))
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    other = config_of(values, tmp_path, steps=3, seed=1)
    with pytest.raises(ValueError, match="trained with another seed, steps: start fresh"):
        train(other)
    result = train(other, fresh=True)
    assert [path.name for path in result.checkpoint.parent.iterdir()] == ["step-000003"]
    assert lines_of(result.metrics)[-1]["step"] == 3
    assert kept.read_text() == "mine"


def test_other_shards_are_another_run_and_a_moved_folder_is_not(
    values: dict[str, Any], shards: Path, tmp_path: Path
) -> None:
    train(config_of(values, tmp_path / "run", steps=3))
    moved = tmp_path / "moved"
    moved.symlink_to(shards)
    assert train(config_of(values, tmp_path / "run", steps=3, shards=str(moved))).steps == 3

    remixed = tmp_path / "remixed"
    remixed.mkdir()
    for path in shards.iterdir():
        (remixed / path.name).symlink_to(path)
    manifest = storage.read_json(shards / "manifest.json")
    (remixed / "manifest.json").unlink()
    storage.write_json(remixed / "manifest.json", manifest | {"seed": 5})
    with pytest.raises(ValueError, match="another manifest_sha256"):
        train(config_of(values, tmp_path / "run", steps=3, shards=str(remixed)))


def test_an_interrupted_save_leaves_the_checkpoint_before(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(values, tmp_path)
    with pytest.raises(Killed):
        train(config, kill_at(4))

    def full_disk(*args: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "_optimiser_tensors", full_disk)
        with pytest.raises(OSError, match="no space left"):
            train(config)
    assert checkpoint.latest(tmp_path) == checkpoint.folder_of(tmp_path, 3)
    assert train(config).steps == 6


def test_a_run_in_a_bucket_arrives_at_the_weights_of_one_on_a_disk(
    values: dict[str, Any],
    shards: Path,
    tmp_path: Path,
    bucket: Remote,
    server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = train(config_of(values, tmp_path))
    copy(shards, bucket / "shards")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    section = {"s3": {"endpoint": server.endpoint}}
    there = values | {"storage": section, "shards": f"{bucket}shards", "out": f"{bucket}run"}
    config = check(TrainConfig, there, "test")
    with pytest.raises(Killed):
        train(config, kill_at(4))
    server.fault("error", method="GET", keys="shards/*", count=5)
    server.fault("drop", method="PUT", keys="run/*", count=3, after=100)
    result = train(config)
    assert str(result.checkpoint) == f"{bucket}run/checkpoints/step-000006"
    for name in (checkpoint.MODEL, checkpoint.OPTIMISER, checkpoint.STATE):
        assert storage.read_bytes(result.checkpoint / name) == (
            storage.read_bytes(local.checkpoint / name)
        )
    lines = [json.loads(line) for line in storage.read_bytes(result.metrics).splitlines()]
    assert [line["step"] for line in lines] == [line["step"] for line in lines_of(local.metrics)]
    assert result.last_loss == local.last_loss


def test_a_folder_without_its_state_is_no_checkpoint(
    values: dict[str, Any], tmp_path: Path
) -> None:
    result = train(config_of(values, tmp_path))
    (result.checkpoint / checkpoint.STATE).unlink()
    assert checkpoint.latest(tmp_path) == checkpoint.folder_of(tmp_path, 3)
    assert checkpoint.latest(tmp_path / "nowhere") is None


def test_a_gradient_that_is_not_finite_stops_the_run(
    values: dict[str, Any], tmp_path: Path
) -> None:
    config = config_of(values, tmp_path, optimiser={"peak_lr": 1e30, "warmup_steps": 0})
    with pytest.raises(RuntimeError, match="non-finite"):
        train(config)


def test_a_frozen_encoder_keeps_the_weights_it_was_given(
    values: dict[str, Any], tower: str, tmp_path: Path
) -> None:
    weights = tmp_path / "clip.safetensors"
    save_file(open_clip.create_model(tower).state_dict(), weights)
    encoder = {"model": tower, "pretrained": str(weights), "freeze": True}
    result = train(config_of(values, tmp_path / "run", steps=2, encoder=encoder))
    given, trained = load_file(weights), load_file(result.checkpoint / checkpoint.MODEL)
    prefix = "encoder.tower."
    frozen = {k: v for k, v in trained.items() if k.startswith(prefix)}
    assert len(frozen) > 10
    for name, value in frozen.items():
        assert torch.equal(value, given[f"visual.{name.removeprefix(prefix)}"])
    moments = load_file(result.checkpoint / checkpoint.OPTIMISER)
    assert {name.split(".")[0] for name in moments} == {"connector", "decoder"}
