"""Training of a filter network: what it learns, that it goes on exactly, what a recipe loads."""

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from filters.clip import BUNDLED, CONFIG, WEIGHTS, load_clip, network_folder, pair_scores
from shards import storage
from shards.images import open_image
from tests.trainer.networks import TINY, shape_pairs, tiny_network
from trainer.filter_network import (
    SMALLEST_CROP,
    Options,
    Settings,
    Towers,
    build_run,
    crop,
    evaluate,
    learning,
    permutation,
    start_network,
    train,
    turns,
)
from trainer.metrics import Progress
from trainer.pairs import PairsError, Split, read_image, read_pairs, split
from trainer.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))
OPTIONS = Options(workers=0, eval_every=20, checkpoint_every=10)


class Killed(Exception):  # noqa: N818
    pass


def kill_at(step: int) -> Progress:
    def progress(line: dict[str, Any]) -> None:
        if line["step"] == step:
            raise Killed

    return progress


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_network(tmp_path_factory.mktemp("tiny") / "network"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Split:
    table = shape_pairs(tmp_path_factory.mktemp("shapes") / "pairs")
    return split(read_pairs([str(table)]).pairs, ["place 4"])


def settings(network: str, **changes: Any) -> Settings:
    values = {"steps": 20, "batch": 16, "model": network, "learning_rate": 3e-3}
    return Settings(**(values | changes))


def test_training_separates_pairs_that_were_held_out(
    network: str, pairs: Split, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []
    before, after = train(
        settings(network, steps=60), Options(0, 20, 60), pairs, tmp_path, ALONE, told.append
    )
    assert after["pooled"] > before["pooled"] + 0.15
    assert after["pooled"] > 0.75
    assert [line["step"] for line in told if "auc" in line] == [0, 20, 40, 60]
    losses = [line["loss"] for line in told if "loss" in line]
    assert len(losses) == 6 and losses[-1] < losses[0]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == told
    assert told[-1]["auc"] == after


def test_what_is_written_scores_in_a_recipe_as_the_trained_network_did(
    network: str, pairs: Split, tmp_path: Path
) -> None:
    """Not only as the file says: the same preprocessing, and other scores than before."""
    run = build_run(settings(network), OPTIONS, pairs, ALONE)
    train(settings(network), OPTIONS, pairs, tmp_path, ALONE)
    assert network_folder(str(tmp_path)) == tmp_path
    rows = pairs.held_out.slice(0, 5).to_pylist()
    pictures = [open_image(read_image(row)) for row in rows]
    texts = [row["caption"] for row in rows]
    run.towers.network.load_state_dict(load_file(tmp_path / WEIGHTS))
    with torch.no_grad():
        images, words, _ = run.towers.eval()(
            torch.stack([run.clip.preprocess(picture) for picture in pictures]),
            run.clip.tokenizer(texts),
        )
    scores = pair_scores(load_clip(str(tmp_path)), pictures, texts)
    assert scores == pytest.approx((images * words).sum(1).numpy(), abs=1e-4)
    assert np.abs(scores - pair_scores(load_clip(network), pictures, texts)).max() > 0.01


def test_a_killed_run_arrives_at_the_same_weights(
    network: str, pairs: Split, tmp_path: Path
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    expected = train(settings(network), OPTIONS, pairs, whole, ALONE)
    with pytest.raises(Killed):
        # Ten steps are kept; at the twentieth the checkpoint is not yet written.
        train(settings(network), OPTIONS, pairs, halves, ALONE, kill_at(20))
    assert storage.names(halves / "checkpoints") == ["step-000010"]
    assert train(settings(network), OPTIONS, pairs, halves, ALONE) == expected
    assert storage.names(halves / "checkpoints") == ["step-000020"]
    for name in (WEIGHTS, CONFIG, "metrics.jsonl"):
        assert (halves / name).read_bytes() == (whole / name).read_bytes()
    again: list[dict[str, Any]] = []
    assert train(settings(network), OPTIONS, pairs, halves, ALONE, again.append) == expected
    assert again == []
    with pytest.raises(ValueError, match="trained with another learning_rate, seed: start fresh"):
        train(settings(network, seed=1, learning_rate=1), OPTIONS, pairs, halves, ALONE)


def test_pictures_decoded_in_other_processes_are_the_same(
    network: str, pairs: Split, tmp_path: Path
) -> None:
    for workers in (0, 1):
        options = Options(workers, 9, 9)
        train(settings(network, steps=2), options, pairs, tmp_path / str(workers), ALONE)
    assert (tmp_path / "0" / WEIGHTS).read_bytes() == (tmp_path / "1" / WEIGHTS).read_bytes()


def test_a_network_of_random_weights_may_be_the_start(pairs: Split, tmp_path: Path) -> None:
    (tmp_path / "mixwright-test-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path)
    chosen = [Settings(1, 16, "mixwright-test-tiny", seed=seed) for seed in (3, 3, 4)]
    starts = [start_network(one).model.token_embedding.weight for one in chosen]
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])
    train(chosen[0], OPTIONS, pairs, tmp_path / "out", ALONE)
    assert load_clip(str(tmp_path / "out")).preprocess is not None


def test_a_locked_image_tower_keeps_its_weights(network: str, pairs: Split, tmp_path: Path) -> None:
    chosen = settings(network, lock_image=True)
    assert evaluate(build_run(chosen, OPTIONS, pairs, ALONE)) == pytest.approx(
        evaluate(build_run(settings(network), OPTIONS, pairs, ALONE))
    )
    train(chosen, OPTIONS, pairs, tmp_path, ALONE)
    before, after = load_file(Path(network) / WEIGHTS), load_file(tmp_path / WEIGHTS)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert "token_embedding.weight" in changed
    assert not {name for name in changed if name.startswith("visual.")}


def test_of_the_bundled_network_locking_leaves_the_projection_to_learn() -> None:
    towers = Towers(load_clip().model, locked=True)
    trained = {name for name, p in towers.named_parameters() if p.requires_grad}
    images = {name for name in trained if "visual" in name}
    assert images == {n for n in trained if n.startswith("network.visual.head.")} != set()
    learning(towers, Settings(steps=1, batch=2, model=BUNDLED))
    assert towers.network.visual.head.training
    assert not any(m.training for m in towers.modules() if isinstance(m, torch.nn.BatchNorm2d))


def test_every_epoch_shows_each_pair_once_whatever_the_number_of_devices() -> None:
    chosen = Settings(steps=6, batch=4)
    alone = [[row for _, row in turn] for turn in turns(chosen, ALONE, 13, 0)]
    first, second = [*chain(*alone[:3])], [*chain(*alone[3:])]
    assert first == [*permutation(13, 0, 0)[:12]] != second
    assert len(set(first)) == len(set(second)) == 12
    shares = [list(turns(chosen, Ranks(rank, 2, ALONE.device), 13, 2)) for rank in (0, 1)]
    together = [[row for _, row in a + b] for a, b in zip(*shares, strict=True)]
    assert together == alone[2:]
    assert [epoch for turn in shares[0] for epoch, _ in turn] == [0, 0, 1, 1, 1, 1, 1, 1]


def test_a_crop_is_decided_by_its_key_and_keeps_most_of_the_picture() -> None:
    picture = Image.effect_noise((200, 100), 90)
    crops = [crop(picture, f"{key:064x}"[::-1]) for key in range(20)]
    areas = [image.width * image.height / 20_000 for image in crops]
    assert min(areas) > SMALLEST_CROP - 0.02 and max(areas) <= 1
    assert len({image.tobytes() for image in crops}) > 15
    assert crop(picture, "7" * 64).tobytes() == crop(picture, "7" * 64).tobytes()
    assert crop(Image.new("RGB", (1, 1)), "7" * 64).size == (1, 1)


def test_a_batch_larger_than_the_data_or_that_devices_cannot_share_is_refused(
    network: str, pairs: Split, tmp_path: Path
) -> None:
    with pytest.raises(PairsError, match=r"a batch of 128 of 80 pairs .* smaller --batch"):
        train(settings(network, batch=128), OPTIONS, pairs, tmp_path, ALONE)
    three = Ranks(0, 3, torch.device("cpu"))
    with pytest.raises(PairsError, match="--batch 16 is no multiple of 3 devices"):
        train(settings(network), OPTIONS, pairs, tmp_path, three)


def test_an_architecture_that_is_none_is_refused(pairs: Split, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no-such-model"):
        train(Settings(1, 2, "no-such-model"), OPTIONS, pairs, tmp_path, ALONE)
