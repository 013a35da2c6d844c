"""How pairs are scored, and that the bundled network earns its place.

The Tux Paint stamps of the committed sample are of a source the network was not trained on.
MIXWRIGHT_DEV_DATA may name a folder with a larger captions/captions.tsv for the same check.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from filters.clip import (
    BATCH,
    BUNDLED,
    BUNDLED_PREPROCESS,
    CONFIG,
    WEIGHTS,
    ClipModel,
    embed_images,
    embed_texts,
    load_clip,
    on_white,
    pair_scores,
)
from trainer.filter_network import HELD_OUT, auc, caption_pairs, distinct, is_held_out, report

SAMPLE = Path(__file__).parents[1] / "data" / "sample"
STAMPS = "deb:tuxpaint-stamps-default 2022.06.04-1"


@pytest.fixture(scope="module")
def clip() -> ClipModel:
    return load_clip()


@pytest.fixture(scope="module")
def stamps() -> list[tuple[Image.Image, str]]:
    rows = pq.read_table(SAMPLE / "captions.parquet").to_pylist()
    urls = [(urlparse(row["url"]), row["caption"]) for row in rows if row["source"] == STAMPS]
    return [(Image.open(SAMPLE / "www" / url.netloc / url.path[1:]), text) for url, text in urls]


def separation(clip: ClipModel, images: list[Image.Image], texts: list[str]) -> float:
    """AUC of matched captions against all the others of the same source."""
    cosines = embed_images(clip, images) @ embed_texts(clip, texts).T
    other = np.array([[a != b for b in texts] for a in texts])
    return auc(np.diag(cosines), cosines[other])


def test_pictures_score_higher_with_their_own_captions_than_with_another_s(
    clip: ClipModel, stamps: list[tuple[Image.Image, str]]
) -> None:
    wanted = ("A frog.", "A crow.", "A top hat.")
    images = [next(image for image, text in stamps if text == name) for name in wanted]
    own = pair_scores(clip, images, list(wanted))
    another = pair_scores(clip, images, [*wanted[1:], wanted[0]])
    assert own.mean() > another.mean()


def test_matched_captions_outscore_shuffled_ones_on_a_source_never_trained_on(
    clip: ClipModel, stamps: list[tuple[Image.Image, str]]
) -> None:
    assert separation(clip, *map(list, zip(*stamps, strict=True))) >= 0.75


def test_matched_captions_outscore_shuffled_ones_on_all_held_out_sources(clip: ClipModel) -> None:
    """Shuffled within a source: a textbook's caption is easily told from a stamp's."""
    folder = Path(os.environ.get("MIXWRIGHT_DEV_DATA", "unset")) / "captions"
    if not (folder / "captions.tsv").exists():
        pytest.skip("MIXWRIGHT_DEV_DATA names no folder with captions/captions.tsv")
    pairs = [pair for pair in distinct(caption_pairs(folder)) if is_held_out(pair, HELD_OUT)]
    images = embed_images(clip, [Image.open(pair.image) for pair in pairs])
    texts = embed_texts(clip, [pair.texts[0] for pair in pairs])
    assert report(images, texts, pairs)["pooled"] >= 0.75


def test_a_score_is_the_cosine_of_unit_embeddings_to_four_decimals(clip: ClipModel) -> None:
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green")]
    texts = ["a red square", "a green square"]
    rows, columns = embed_images(clip, images), embed_texts(clip, texts)
    assert rows.dtype == columns.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(columns, axis=1) == pytest.approx(1, abs=1e-5)
    scores = pair_scores(clip, images, texts)
    assert scores.tolist() == np.round((rows * columns).sum(axis=1), 4).tolist()


def test_a_score_does_not_depend_on_its_batch(
    clip: ClipModel, stamps: list[tuple[Image.Image, str]]
) -> None:
    images, texts = map(list, zip(*stamps[: BATCH + 5], strict=True))
    together = pair_scores(clip, images, texts)
    assert pair_scores(clip, images[-1:], texts[-1:]) == together[-1]
    assert pair_scores(clip, images[::-1], texts[::-1]).tolist() == together[::-1].tolist()


def test_no_pairs_have_no_scores(clip: ClipModel) -> None:
    assert pair_scores(clip, [], []).shape == (0,)
    assert embed_texts(clip, []).shape == (0, embed_texts(clip, ["a cat"]).shape[1])


def test_lists_of_different_lengths_are_refused(clip: ClipModel) -> None:
    with pytest.raises(ValueError, match="1 images for 2 texts"):
        pair_scores(clip, [Image.new("RGB", (8, 8))], ["a", "b"])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_pixels_are_white(mode: str) -> None:
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0)).convert(mode)
    assert on_white(clear).getpixel((0, 0)) == (255, 255, 255)


def test_opaque_and_palette_pictures_keep_their_colours() -> None:
    palette = Image.new("RGB", (2, 1), "red").convert("P")
    assert on_white(palette).getpixel((0, 0)) == (255, 0, 0)
    palette.info["transparency"] = palette.getpixel((0, 0))
    assert on_white(palette).getpixel((0, 0)) == (255, 255, 255)


def test_a_transparent_picture_scores_like_the_same_on_white(clip: ClipModel) -> None:
    frog = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    frog.paste("green", (20, 20, 40, 40))
    white = Image.new("RGB", (60, 60), "white")
    white.paste("green", (20, 20, 40, 40))
    assert np.array_equal(embed_images(clip, [frog]), embed_images(clip, [white]))


def test_a_pickled_file_is_refused_unread(tmp_path: Path) -> None:
    pickled = tmp_path / "weights.pt"
    pickled.write_bytes(b"never opened")
    with pytest.raises(ValueError, match=r"not a \.safetensors file"):
        load_clip("ViT-B-32", str(pickled))


def test_weights_must_be_named_for_every_model_but_the_bundled_one() -> None:
    with pytest.raises(ValueError, match="ViT-B-32 needs pretrained"):
        load_clip("ViT-B-32")
    with pytest.raises(ValueError, match="brings its own weights"):
        load_clip(pretrained="openai")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the bundled network, in open_clip's form."""
    weights = Path(__file__).parents[2] / "filters" / "weights"
    folder = tmp_path_factory.mktemp("network")
    names = {"mean": "image_mean", "std": "image_std"} | {
        "interpolation": "image_interpolation",
        "resize_mode": "image_resize_mode",
    }
    config = {
        "model_cfg": json.loads((weights / f"{BUNDLED}.json").read_text()),
        "preprocess_cfg": {name: BUNDLED_PREPROCESS[key] for name, key in names.items()},
    }
    (folder / CONFIG).write_text(json.dumps(config))
    shutil.copy(weights / f"{BUNDLED}.safetensors", folder / WEIGHTS)
    return folder


def test_a_folder_is_a_network(clip: ClipModel, folder: Path) -> None:
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green")]
    texts = ["a red square", "a green square"]
    found = load_clip(str(folder))
    assert pair_scores(found, images, texts).tolist() == pair_scores(clip, images, texts).tolist()


def test_a_folder_must_have_safetensors_even_where_open_clip_takes_a_pickle(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / CONFIG, tmp_path)
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(ValueError, match=f"it has no {WEIGHTS}"):
        load_clip(str(tmp_path))
    with pytest.raises(ValueError, match=f"no/such/folder .* no {CONFIG} and no {WEIGHTS}"):
        load_clip("no/such/folder")


def test_a_folder_brings_its_own_weights(folder: Path) -> None:
    with pytest.raises(ValueError, match="brings its own weights"):
        load_clip(str(folder), "openai")


def test_importing_the_module_does_not_import_torch() -> None:
    code = "import sys, filters.clip; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
