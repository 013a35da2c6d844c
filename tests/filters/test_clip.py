"""How pairs are scored, and that the bundled network earns its place.

The Tux Paint stamps of the committed sample are of a source the network was not trained on.
MIXWRIGHT_DEV_DATA may name a folder with a larger captions/captions.tsv for the same check.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from filters.clip import (
    BUNDLED,
    BUNDLED_PREPROCESS,
    CONFIG,
    WEIGHTS,
    ClipModel,
    _device,
    ahead,
    batched,
    create,
    embed_images,
    embed_once,
    embed_texts,
    load_clip,
    on_white,
    pair_scores,
    scorer,
)
from filters.ranking import auc
from trainer.bundled_network import HELD_OUT, caption_pairs, distinct, is_held_out
from trainer.separation import separation as separation_by_source

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
    captions, sources = zip(*((pair.texts[0], pair.source) for pair in pairs), strict=True)
    assert separation_by_source(images, texts, captions, sources)["pooled"] >= 0.75


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
    images, texts = map(list, zip(*stamps[: clip.batch + 5], strict=True))
    together = pair_scores(clip, images, texts)
    assert pair_scores(clip, images[-1:], texts[-1:]) == together[-1]
    assert pair_scores(clip, images[::-1], texts[::-1]).tolist() == together[::-1].tolist()


def plain(name: str, images: list[Image.Image], texts: list[str]) -> np.ndarray:
    """The scores of open_clip by itself, as its documentation has it, all pairs at once."""
    loaded = create(name) if name != BUNDLED else load_clip()
    with torch.no_grad():
        pixels = torch.stack([loaded.preprocess(on_white(image)) for image in images])
        pictures = loaded.model.encode_image(pixels)
        words = loaded.model.encode_text(loaded.tokenizer(texts))
    pictures /= pictures.norm(dim=-1, keepdim=True)
    words /= words.norm(dim=-1, keepdim=True)
    return (pictures * words).sum(-1).numpy()


def test_scores_are_those_of_open_clip_whatever_the_batch(
    stamps: list[tuple[Image.Image, str]],
) -> None:
    images, texts = map(list, zip(*stamps[:9], strict=True))
    expected = plain(BUNDLED, images, texts)
    for batch in (4, 16):
        ours = pair_scores(scorer(batch=batch), images, texts)
        assert ours == pytest.approx(expected, abs=1e-4)


def test_a_model_sees_batches_of_one_shape(clip: ClipModel) -> None:
    seen: list[tuple[int, ...]] = []

    class Watched(torch.nn.Module):
        def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(pixels.shape))
            return clip.model.encode_image(pixels)

    images = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(7)]
    watched = replace(clip, model=Watched(), batch=3)
    rows = embed_images(watched, images)
    assert seen == [(3, 3, 192, 192)] * 3
    assert rows == pytest.approx(embed_images(clip, images), abs=1e-5)


def test_a_picture_is_decoded_once_for_all_models(clip: ClipModel) -> None:
    other = replace(clip, batch=2)
    decoded: list[int] = []

    def decode(shade: int) -> Image.Image:
        decoded.append(shade)
        return Image.new("RGB", (8, 8), (shade, 0, 0))

    shades = [0, 100, 200]
    first, second = embed_once([clip, other], shades, decode)
    assert decoded == shades
    alone = embed_images(clip, [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in shades])
    assert first.tolist() == alone.tolist()
    assert second == pytest.approx(alone, abs=1e-5)


def test_threads_that_decode_ahead_change_nothing(
    clip: ClipModel, stamps: list[tuple[Image.Image, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [image.filename for image, _ in stamps[:16]]  # type: ignore[attr-defined]
    [here] = embed_once([clip], paths, lambda path: on_white(Image.open(path)))
    monkeypatch.setattr("filters.clip._decoders", lambda device: 3)
    threads: set[str] = set()

    def decode(path: str) -> Image.Image:
        threads.add(threading.current_thread().name)
        return on_white(Image.open(path))

    [there] = embed_once([clip], paths, decode)
    assert there.tolist() == here.tolist()
    assert threading.current_thread().name not in threads


def test_ahead_keeps_order_and_looks_no_further_than_it_may() -> None:
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        return item * 2

    results = ahead(work, range(10), 2, 3)
    assert next(results) == 0
    assert set(started) <= {0, 1, 2, 3}
    assert list(results) == [item * 2 for item in range(1, 10)]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0], 1, 1))


def test_batches_hold_everything_once() -> None:
    assert list(batched(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []


def test_in_bfloat16_embeddings_are_nearly_the_same_and_still_of_length_one(
    clip: ClipModel, stamps: list[tuple[Image.Image, str]]
) -> None:
    images, texts = map(list, zip(*stamps[:16], strict=True))
    half = scorer(bf16=True)
    used: list[torch.dtype] = []
    hook = half.model.visual.register_forward_hook(lambda m, i, out: used.append(out.dtype))
    rows = embed_images(half, images)
    hook.remove()
    assert used == [torch.bfloat16]
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    scores = pair_scores(half, images, texts)
    assert scores == pytest.approx(pair_scores(clip, images, texts), abs=0.02)
    assert scores.tolist() != pair_scores(clip, images, texts).tolist()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has other defaults")
def test_a_processor_has_batches_of_16_in_float32() -> None:
    assert (scorer().batch, scorer().bf16) == (16, False)
    assert scorer(batch=4).batch == 4


def test_processes_share_the_gpus_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    found = set()
    for number in range(100, 104):
        monkeypatch.setattr(os, "getpid", lambda number=number: number)
        found.add(_device())
    assert found == {"cuda:0", "cuda:1", "cuda:2", "cuda:3"}


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
