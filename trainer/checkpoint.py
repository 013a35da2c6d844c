"""Checkpoints that resume exactly: weights, optimiser, and how much of the data was consumed.

A checkpoint is a folder, `checkpoints/step-000150/`, on a disk or in an object store. Its state
is written last: a folder without one is what an interrupted save left, and is not read. Tensors
are safetensors and the rest is JSON, so that reading a stranger's checkpoint runs no code.
"""

from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from shards import storage
from shards.storage import Location

FOLDER = "checkpoints"
MODEL = "model.safetensors"
OPTIMISER = "optimiser.safetensors"
STATE = "state.json"


def folder_of(out: Location, step: int) -> Location:
    """Where the checkpoint of a step is, or would be."""
    return out / FOLDER / f"step-{step:06d}"


def save(
    out: Location,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    state: Mapping[str, Any],
    run: Mapping[str, Any],
) -> None:
    """Writes a checkpoint; an interrupted save leaves none.

    `state` is JSON and has "step", the updates done. `run` is what must be equal for one run to
    continue another.
    """
    folder = folder_of(out, state["step"])
    _save_tensors(folder / MODEL, model.state_dict())
    _save_tensors(folder / OPTIMISER, _optimiser_tensors(model, optimiser))
    storage.write_json(folder / STATE, {"state": dict(state), "run": dict(run)})


def _save_tensors(place: Location, tensors: Mapping[str, Tensor]) -> None:
    with storage.atomic_path(place) as aside:
        safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, aside)


def latest(out: Location) -> Location | None:
    """The whole checkpoint of the highest step, if there is any."""
    steps = [name for name in storage.names(out / FOLDER) if name.startswith("step-")]
    for name in sorted(steps, key=lambda name: int(name.removeprefix("step-")), reverse=True):
        if storage.exists(out / FOLDER / name / STATE):
            return out / FOLDER / name
    return None


def load(
    folder: Location, model: nn.Module, optimiser: torch.optim.Optimizer, run: Mapping[str, Any]
) -> dict[str, Any]:
    """Puts the weights and the optimiser back as `save` found them; returns the state.

    Raises:
        ValueError: the checkpoint is of another run; the message names what differs.
    """
    stored = storage.read_json(folder / STATE)
    if changed := sorted(k for k in {**run, **stored["run"]} if run.get(k) != stored["run"].get(k)):
        raise ValueError(
            f"{folder} was trained with another {', '.join(changed)}: "
            "start fresh, or write to another folder"
        )
    model.load_state_dict(_load_tensors(folder / MODEL))
    _restore_optimiser(model, optimiser, _load_tensors(folder / OPTIMISER))
    state: dict[str, Any] = stored["state"]
    return state


def _load_tensors(place: Location) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = safetensors.torch.load(storage.read_bytes(place))
    return tensors


def _optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def _restore_optimiser(
    model: nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    for names, value in tensors.items():
        name, key = names.rsplit("/", 1)
        parameter = parameters[name]
        # AdamW counts its steps on the CPU whatever the parameter's device.
        device = torch.device("cpu") if key == "step" else parameter.device
        optimiser.state[parameter][key] = value.to(device)
