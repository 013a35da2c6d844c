"""Small shards and a tiny encoder, made here: tests need no weights and no network."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from tests.shards.buckets import _served, bucket, server  # noqa: F401
from tests.trainer.samples import mixture, write_shards

TINY_TOWER = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    # Threads that wait for each other take longer than these models do.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), mixture(15))


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name under which open_clip makes a tiny ViT with random weights."""
    path = tmp_path_factory.mktemp("clip") / "mixwright-test-tower.json"
    path.write_text(json.dumps(TINY_TOWER))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture
def values(shards: Path, tower: str, tmp_path: Path) -> dict[str, Any]:
    """A config of a run that takes a second."""
    return {
        "name": "test",
        "shards": str(shards),
        "out": str(tmp_path / "run"),
        "steps": 6,
        "batch_size": 2,
        "held_out": 0.2,
        "encoder": {"model": tower, "freeze": False},
        "decoder": {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2},
        "optimiser": {"peak_lr": 0.003, "warmup_steps": 2},
        "checkpoint_every": 3,
        "log_every": 2,
        "eval_every": 3,
    }
