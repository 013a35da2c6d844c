import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from configs.reading import check
from shards.loader import open_shards
from trainer.config import EncoderConfig, TrainConfig
from trainer.data import Batch, Examples, vocabulary
from trainer.model import ImageEncoder, MultimodalModel, build_model

VISION = {
    "vit": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "timm": {"image_size": 64, "timm_model_name": "test_convnext", "timm_proj": "linear"},
}
FEATURES = {"vit": (32, 4, 4), "resnet": (256, 2, 2), "timm": (64, 2, 2)}


@pytest.fixture
def batch_and_model(values: dict[str, Any]) -> tuple[Examples, MultimodalModel]:
    config = check(TrainConfig, values, "test")
    shards = open_shards(config.shards)
    words = vocabulary(shards.manifest)
    model, preprocess = build_model(config, words.size, words.image, 4)
    return Examples(shards, words, preprocess), model


def test_images_take_the_places_of_their_tokens_in_order(
    batch_and_model: tuple[Examples, MultimodalModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, model = batch_and_model
    batch = examples.batch([0, 2, 3])
    monkeypatch.setattr(model.decoder, "forward", lambda x, documents, positions: x)
    embedded = model.hidden(batch)
    images = model.connector(model.encoder(batch.images_NCHW))
    holes = batch.tokens_BT == 1
    assert torch.equal(embedded[holes], images.flatten(0, 1))
    assert torch.equal(embedded[~holes], model.decoder.embedding(batch.tokens_BT[~holes]))


@torch.no_grad()
def test_an_image_reaches_its_own_document_only(
    batch_and_model: tuple[Examples, MultimodalModel],
) -> None:
    examples, model = batch_and_model
    batch = examples.batch([0])
    other = batch.images_NCHW.clone()
    other[1] = torch.randn_like(other[1])
    changed = model.hidden(batch) != model.hidden(replace(batch, images_NCHW=other))
    assert changed.any(dim=-1).equal(batch.documents_BT == 1)


@torch.no_grad()
def test_the_loss_of_a_batch_is_the_sum_of_its_sequences(
    batch_and_model: tuple[Examples, MultimodalModel],
) -> None:
    examples, model = batch_and_model
    together = model(examples.batch([0, 1, 2])).item()
    alone = [model(examples.batch([position])).item() for position in (0, 1, 2)]
    assert together == pytest.approx(sum(alone), rel=1e-5)


def test_images_that_do_not_fit_their_tokens_are_refused(
    batch_and_model: tuple[Examples, MultimodalModel],
) -> None:
    examples, model = batch_and_model
    batch = examples.batch([0])
    with pytest.raises(ValueError, match="8 <image> tokens"):
        model(replace(batch, images_NCHW=batch.images_NCHW[:1]))


@pytest.mark.parametrize("kind", sorted(VISION))
def test_every_kind_of_tower_gives_a_map_and_learns_unless_frozen(
    kind: str, tmp_path: Path
) -> None:
    tower = open_clip.create_model(_register(tmp_path, kind)).visual
    encoder = ImageEncoder(tower, frozen=False).train()
    features = encoder(torch.randn(2, 3, encoder.image_size, encoder.image_size))
    assert features.shape == (2, *FEATURES[kind])
    assert encoder.width == FEATURES[kind][0]
    assert features.requires_grad

    frozen = ImageEncoder(tower, frozen=True).train()
    assert not frozen(frozen.blank()).requires_grad
    assert not any(module.training for module in tower.modules())


def test_first_weights_depend_on_the_seed_alone(values: dict[str, Any]) -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.rand(seed + 1)  # what was drawn before must not matter
        return build_model(check(TrainConfig, values | {"seed": seed}, ""), 30, 1, 4)[
            0
        ].state_dict()

    one, same, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["decoder.embedding.weight"], other["decoder.embedding.weight"])


def test_an_encoder_takes_another_image_size(tower: str, values: dict[str, Any]) -> None:
    encoder = EncoderConfig(model=tower, freeze=False, image_size=48)
    config = check(TrainConfig, values, "test").model_copy(update={"encoder": encoder})
    model, _ = build_model(config, 30, 1, 4)
    assert model.encoder(model.encoder.blank()).shape == (1, 32, 6, 6)


def test_a_rank_with_text_only_joins_the_others_under_fsdp(
    values: dict[str, Any], tmp_path: Path
) -> None:
    # Rank 0 has images and rank 1 has none. Without the blank image both wait for ever.
    (tmp_path / "values.json").write_text(json.dumps(values))
    script = Path(__file__).with_name("two_ranks.py")
    root = Path(__file__).parents[2]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path)],
            env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    sharded = torch.load(tmp_path / "gradients.pt", weights_only=True)
    whole = torch.load(tmp_path / "expected.pt", weights_only=True)
    assert sharded.keys() == whole.keys()
    for name in whole:
        assert torch.allclose(sharded[name], whole[name], atol=1e-6), name


def _register(folder: Path, kind: str) -> str:
    text = {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 1, "layers": 1}
    path = folder / f"mixwright-test-{kind}.json"
    config = {"embed_dim": 16, "vision_cfg": VISION[kind], "text_cfg": text}
    path.write_text(json.dumps(config))
    open_clip.add_model_config(path)
    return path.stem


def test_a_batch_moves_between_devices_whole(
    batch_and_model: tuple[Examples, MultimodalModel],
) -> None:
    batch: Batch = batch_and_model[0].batch([0]).to(torch.device("meta"))
    assert {value.device.type for value in vars(batch).values() if torch.is_tensor(value)} == {
        "meta"
    }
    assert batch.corpora == ("captions",)
