"""Checkpoints that resume exactly: weights, optimiser, and how much of the data was consumed.

A checkpoint is a folder, `checkpoints/step-000150/`, which appears whole or not at all. Tensors
are safetensors and the rest is JSON, so that reading a stranger's checkpoint runs no code.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainer.config import TrainConfig

FOLDER = "checkpoints"
MODEL = "model.safetensors"
OPTIMISER = "optimiser.safetensors"
STATE = "state.json"
# Changing one of these does not change the weights that a run arrives at.
FREE = {"name", "shards", "out", "checkpoint_every", "log_every", "eval_every", "eval_batches"}


@dataclass(frozen=True)
class TrainState:
    """Where a run stands. `consumed` is the whole state of the data."""

    step: int  # updates done
    consumed: int  # sequences, of all ranks
    seen: Mapping[str, int]  # sequences by corpus
    first_loss: float  # held out, before the first update


def identity(config: TrainConfig, manifest_sha256: str) -> dict[str, Any]:
    """What must be equal for one run to continue another: the config and the data's content."""
    values = config.model_dump(mode="json", exclude=FREE | {"cache_sequences"})
    return values | {"manifest_sha256": manifest_sha256}


def folder_of(out: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or would be."""
    return out / FOLDER / f"step-{step:06d}"


def save(
    out: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: TrainState,
    run: dict[str, Any],
) -> None:
    """Writes a checkpoint aside and renames it; an interrupted save leaves none.

    `run` is the run's `identity`.
    """
    final = folder_of(out, state.step)
    aside = final.with_name(f".{final.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, aside / MODEL)
    save_file(_optimiser_tensors(model, optimiser), aside / OPTIMISER)
    text = json.dumps({"state": asdict(state), "run": run}, indent=1, sort_keys=True)
    (aside / STATE).write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)


def latest(out: Path) -> Path | None:
    """The checkpoint of the highest step, if there is any."""
    found = {int(path.name.removeprefix("step-")): path for path in (out / FOLDER).glob("step-*")}
    return found[max(found)] if found else None


def load(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, run: dict[str, Any]
) -> TrainState:
    """Puts the weights and the optimiser back as `save` found them.

    Raises:
        ValueError: the checkpoint is of another run; the message names what differs.
    """
    stored = json.loads((path / STATE).read_text(encoding="utf-8"))
    if changed := sorted(k for k in run | stored["run"] if run.get(k) != stored["run"].get(k)):
        raise ValueError(
            f"{path} was trained with another {', '.join(changed)}: "
            "start fresh, or write to another folder"
        )
    model.load_state_dict(load_file(path / MODEL))
    _restore_optimiser(model, optimiser, load_file(path / OPTIMISER))
    return TrainState(**stored["state"])


def _optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def _restore_optimiser(
    model: nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        # AdamW counts its steps on the CPU whatever the parameter's device.
        device = torch.device("cpu") if key == "step" else parameter.device
        optimiser.state[parameter][key] = value.to(device)
