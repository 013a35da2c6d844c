"""One of two processes that share a model; run by test_model.py: two_ranks.py RANK FOLDER."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import open_clip
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from configs.reading import check
from shards.loader import open_shards
from tests.trainer.conftest import TINY_TOWER
from trainer.config import TrainConfig
from trainer.data import Examples, vocabulary
from trainer.model import MultimodalModel, build_model

POSITIONS = ([0], [2])  # two captions with images; a text


def main(rank: int, folder: Path) -> None:
    examples, model = build(folder, rank)
    if rank == 0:
        whole = [examples.batch([*POSITIONS[0], *POSITIONS[1]])]
        (model(whole[0]) / whole[0].targets).backward()
        torch.save(gradients(model), folder / "expected.pt")
        model.zero_grad()
    targets = sum(examples.batch(positions).targets for positions in POSITIONS)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    mesh = init_device_mesh("cpu", (2,))
    for part in (model.encoder, model.connector, *model.decoder.blocks, model):
        fully_shard(part, mesh=mesh)
    # FSDP averages over the two ranks, so the sum over both needs the factor.
    (2 * model(examples.batch(POSITIONS[rank])) / targets).backward()
    full = {name: gradient.full_tensor() for name, gradient in gradients(model).items()}
    if rank == 0:
        torch.save(full, folder / "gradients.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def build(folder: Path, rank: int) -> tuple[Examples, MultimodalModel]:
    config = check(TrainConfig, json.loads((folder / "values.json").read_text()), "test")
    own = folder / str(rank) / f"{config.encoder.model}.json"
    own.parent.mkdir()
    own.write_text(json.dumps(TINY_TOWER))
    open_clip.add_model_config(own)
    shards = open_shards(config.shards)
    words = vocabulary(shards.manifest)
    model, preprocess = build_model(config, words.size, words.image, 4)
    return Examples(shards, words, preprocess), model


def gradients(model: MultimodalModel) -> dict[str, torch.Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
