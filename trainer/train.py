"""Trains the reference model on a folder of shards.

Guarantees, each with a test in tests/trainer/test_train.py:
- a run that was stopped and started again arrives at the same weights, bit for bit on a CPU;
- a loss is summed over targets and divided by their number, so every target weighs the same;
- held-out sequences are never trained on.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from shards.loader import open_shards
from shards.storage import Location, remove_tree, sha256_file
from shards.tar import MANIFEST
from trainer import checkpoint, optim
from trainer.config import TrainConfig
from trainer.data import Batch, Examples, split, step_positions, vocabulary
from trainer.metrics import Progress, due, metrics_writer
from trainer.model import MultimodalModel, build_model

# Changing one of these does not change the weights that a run arrives at.
FREE = {"name", "storage", "shards", "out", "cache_sequences"} | {
    "checkpoint_every",
    "log_every",
    "eval_every",
    "eval_batches",
}


@dataclass(frozen=True)
class TrainState:
    """Where a run stands. `consumed` is the whole state of the data."""

    step: int  # updates done
    consumed: int  # sequences, of all ranks
    seen: Mapping[str, int]  # sequences by corpus
    first_loss: float  # held out, before the first update


@dataclass(frozen=True)
class Result:
    """What a run came to. Losses are nats a target on the held-out sequences."""

    first_loss: float  # before the first update
    last_loss: float  # after the last
    steps: int  # updates in all, those before a resume too
    seconds: float  # of this call
    tokens_per_second: float  # of this call's updates; images count, padding does not
    metrics: Location
    checkpoint: Location


@dataclass(frozen=True)
class Run:
    """The parts of a run, built once from its config."""

    config: TrainConfig
    identity: dict[str, Any]
    examples: Examples
    training: range  # positions
    held_out: range
    model: MultimodalModel
    optimiser: torch.optim.Optimizer
    peak_lr: float
    device: torch.device


@dataclass(frozen=True)
class Update:
    """What one update measured."""

    loss: float  # nats, summed over the targets
    targets: int
    tokens: int  # without padding
    images: int
    lr: float
    gradient_norm: float  # before clipping
    seconds: float
    waited: float  # of these, for data


def train(config: TrainConfig, progress: Progress | None = None, *, fresh: bool = False) -> Result:
    """Trains for `config.steps` updates, going on from the latest checkpoint if there is one.

    Every line of metrics.jsonl also goes to `progress`. A line has "step" (updates done) and
    either "held_out_loss", or what `summary` says of the updates since the line before and "mix",
    the share of each corpus in all sequences so far. `fresh` removes the checkpoints that are
    there, and starts over.

    Raises:
        ValueError: the checkpoint is of another run; the shards are too few, or do not fit
            their tokenizer; an image is broken.
        RuntimeError: the gradient is not finite.
        ShardError: the shards cannot be read.
        OSError: a store or a disk cannot be reached or written to.
    """
    began = time.perf_counter()
    if fresh:
        remove_tree(config.out / checkpoint.FOLDER)
    run = build_run(config)
    resumed = resume(run)
    metrics = config.out / "metrics.jsonl"
    write = metrics_writer(metrics, resumed.step if resumed else -1, progress)
    state = resumed or start(run, write)
    last_loss, tokens, seconds = None, 0, 0.0
    window: list[Update] = []
    for state, update in updates(run, state):  # noqa: B020 - where the run stands now
        tokens, seconds = tokens + update.tokens, seconds + update.seconds
        window.append(update)
        if due(state.step, config.log_every, config.steps):
            write({"step": state.step, **summary(window), "mix": _shares(state.seen)})
            window = []
        if due(state.step, config.eval_every, config.steps):
            last_loss = evaluate(run)
            write({"step": state.step, "held_out_loss": last_loss})
        if due(state.step, config.checkpoint_every, config.steps):
            save(run, state)
    return Result(
        first_loss=state.first_loss,
        last_loss=evaluate(run) if last_loss is None else last_loss,
        steps=state.step,
        seconds=time.perf_counter() - began,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        metrics=metrics,
        checkpoint=checkpoint.folder_of(config.out, state.step),
    )


def build_run(config: TrainConfig) -> Run:
    """Opens the shards and makes the model with its first weights.

    Raises:
        ValueError, ShardError: as `train`.
    """
    shards = open_shards(config.shards)
    words = vocabulary(shards.manifest, config.storage.options())
    training, held_out = split(len(shards), config.held_out)
    image_tokens = shards.manifest["image_tokens"]
    model, preprocess = build_model(config, words.size, words.image, image_tokens)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    return Run(
        config=config,
        identity=identity(config, sha256_file(shards.root / MANIFEST)),
        examples=Examples(shards, words, preprocess, config.cache_sequences),
        training=training,
        held_out=held_out,
        model=model,
        optimiser=optim.adamw(model.parameters(), config.optimiser),
        peak_lr=optim.peak_lr(config.optimiser, model.decoder.non_embedding_parameters()),
        device=device,
    )


def updates(run: Run, state: TrainState) -> Iterator[tuple[TrainState, Update]]:
    """Does one update after another, up to the configured number."""
    left, size = run.config.steps - state.step, run.config.batch_size
    turns = range(state.consumed, state.consumed + left * size, size)
    batches = run.examples.batches(step_positions(run.training, turn, size) for turn in turns)
    for turn in turns:
        began = time.perf_counter()
        batch = next(batches).to(run.device)
        waited = time.perf_counter() - began
        lr = optim.learning_rate(state.step, run.config.steps, run.peak_lr, run.config.optimiser)
        loss, norm = update_weights(run, batch, lr)
        seconds = time.perf_counter() - began
        images = len(batch.images_NCHW)
        measured = (loss, batch.targets, batch.filled, images, lr, norm, seconds, waited)
        state = replace(
            state,
            step=state.step + 1,
            consumed=turn + size,
            seen=dict(Counter(state.seen) + Counter(batch.corpora)),
        )
        yield state, Update(*measured)


def update_weights(run: Run, batch: Batch, lr: float) -> tuple[float, float]:
    """One step of the optimiser; returns the summed loss and the gradient's norm."""
    run.model.train()
    optim.set_learning_rate(run.optimiser, lr)
    loss = run.model(batch)
    (loss / batch.targets).backward()
    norm = nn.utils.clip_grad_norm_(
        run.model.parameters(), run.config.optimiser.grad_clip, error_if_nonfinite=True
    )
    run.optimiser.step()
    run.optimiser.zero_grad()
    return loss.item(), norm.item()


@torch.no_grad()
def evaluate(run: Run) -> float:
    """Nats a target over the first `eval_batches` batches of the held-out sequences."""
    run.model.eval()
    size = run.config.batch_size
    shown = run.held_out[: size * run.config.eval_batches]
    steps = (list(shown[start : start + size]) for start in range(0, len(shown), size))
    loss, targets = 0.0, 0
    for read in run.examples.batches(steps):
        batch = read.to(run.device)
        loss += run.model(batch).item()
        targets += batch.targets
    return loss / targets


def summary(window: list[Update]) -> dict[str, float]:
    """The updates of a window as one line of metrics.

    "loss" is nats a target; "data_wait" is the share of the time that was spent on reading and
    decoding; "lr" and "gradient_norm" are the last update's.
    """
    seconds = sum(update.seconds for update in window)
    return {
        "loss": sum(update.loss for update in window) / sum(update.targets for update in window),
        "lr": window[-1].lr,
        "gradient_norm": window[-1].gradient_norm,
        "tokens_per_second": sum(update.tokens for update in window) / seconds,
        "images_per_second": sum(update.images for update in window) / seconds,
        "data_wait": sum(update.waited for update in window) / seconds,
    }


def start(run: Run, write: Progress) -> TrainState:
    """The state before the first update, with the held-out loss of the first weights."""
    state = TrainState(step=0, consumed=0, seen={}, first_loss=evaluate(run))
    write({"step": 0, "held_out_loss": state.first_loss})
    return state


def identity(config: TrainConfig, manifest_sha256: str) -> dict[str, Any]:
    """What must be equal for one run to continue another: the config and the data's content."""
    values = config.model_dump(mode="json", exclude=FREE)
    return values | {"manifest_sha256": manifest_sha256}


def save(run: Run, state: TrainState) -> None:
    """Writes a checkpoint of `state`."""
    checkpoint.save(run.config.out, run.model, run.optimiser, asdict(state), run.identity)


def resume(run: Run) -> TrainState | None:
    """Puts the run back to its latest checkpoint; None if there is none.

    Raises:
        ValueError: the checkpoint is of another run.
    """
    path = checkpoint.latest(run.config.out)
    if path is None:
        return None
    return TrainState(**checkpoint.load(path, run.model, run.optimiser, run.identity))


def _shares(seen: Mapping[str, int]) -> dict[str, float]:
    total = sum(seen.values())
    return {corpus: count / total for corpus, count in sorted(seen.items())}
