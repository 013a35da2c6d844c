"""CLIP scores of image-text pairs, from the bundled network or any open_clip model.

A pair's score is the cosine of its image and text embeddings (Radford et al. 2021, CLIP,
section 2.3). torch and open_clip load on first use, so that importing this module is cheap.

A model always sees batches of one shape: a product of another shape may round otherwise, and a
score would then depend on how the caller had grouped its pairs.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

BUNDLED = "mixwright-small"
# The files of a network's folder, named as open_clip itself writes and reads them.
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# Pairs of a batch by kind of device. A processor's caches hold no more (measured: 32 take longer
# each); a GPU is busy with these, and a tenth of the memory of a small one holds a ViT-L's.
BATCHES = {"cpu": 16, "mps": 64, "cuda": 256}
MOST_DECODERS = 8  # threads of a process that decode for a GPU
# What the bundled network was trained on. Squashing keeps the borders of wide figures, which
# a centre crop would lose.
BUNDLED_PREPROCESS: dict[str, Any] = {
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
    "image_interpolation": "bicubic",
    "image_resize_mode": "squash",
}


T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ClipModel:
    """An open_clip model in eval mode, with its own preprocessing and tokenizer."""

    model: Any
    preprocess: Callable[[Image.Image], "torch.Tensor"]
    tokenizer: Callable[[list[str]], "torch.Tensor"]
    device: str
    batch: int = BATCHES["cpu"]  # images or texts that the model sees at once, never fewer
    bf16: bool = False  # products in bfloat16, sums and weights in float32


def load_clip(
    model: str = BUNDLED, pretrained: str | None = None, device: str | None = None
) -> ClipModel:
    """Loads the bundled network, a network's folder, or an open_clip model and its weights.

    Args:
        model: "mixwright-small" (bundled, needs no network), an open_clip model name, or a folder
            of CONFIG and WEIGHTS, as `mixwright train-filter` writes it.
        pretrained: an open_clip tag (downloaded by open_clip) or the path of a safetensors file.
        device: torch's name of it; the current GPU, if there is one, or the processor.

    Raises:
        ValueError: `pretrained` is given for a network that brings its own weights, is missing
            for another one, or is a local file that is not safetensors: unpickling a file can run
            its code. A folder lacks one of its files.
        RuntimeError: open_clip knows no such model or tag.
    """
    folder = network_folder(model)
    if model != BUNDLED and folder is None:
        return create(model, _safe_weights(model, pretrained), device)
    if pretrained is not None:
        raise ValueError(f"{model} brings its own weights: leave pretrained out")
    if folder is not None:
        return create(f"local-dir:{folder}", device=device)
    with as_file(files("filters") / "weights") as folder:
        register_config(folder / f"{BUNDLED}.json")
        weights = str(folder / f"{BUNDLED}.safetensors")
        return create(BUNDLED, weights, device, **BUNDLED_PREPROCESS)


def network_folder(model: str) -> Path | None:
    """The folder that `model` names; None where it is a name that open_clip knows.

    Raises:
        ValueError: the folder lacks its config or its weights.
    """
    folder = Path(model)
    named = "/" in model and ":" not in model  # hf-hub:owner/name is open_clip's
    if model == BUNDLED or not (named or (folder / CONFIG).is_file()):
        return None
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise ValueError(f"{model} is no network's folder: it has no {' and no '.join(missing)}")
    return folder


def register_config(path: Path) -> None:
    """Makes open_clip know the model config at `path` under the file's stem."""
    import open_clip

    if path.stem not in open_clip.list_models():
        open_clip.add_model_config(path)


def on_white(image: Image.Image) -> Image.Image:
    """The image as RGB, its transparent parts shown on white, as a page would show them."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def scorer(
    model: str = BUNDLED,
    pretrained: str | None = None,
    *,
    batch: int | None = None,
    bf16: bool | None = None,
) -> ClipModel:
    """`load_clip` for scoring alone: on the best device, with a batch and precision that suit it.

    Args:
        model: as of `load_clip`, whose errors it raises too.
        pretrained: likewise.
        batch: the default of the device, if not given.
        bf16: on GPUs that have it, if not given. The bundled network's scores are then off by
            0.003 on average and by 0.01 at most, of 32 pairs of the sample.
    """
    clip = load_clip(model, pretrained, _device())
    import torch

    kind = torch.device(clip.device).type
    if bf16 is None:
        bf16 = kind == "cuda" and torch.cuda.is_bf16_supported()
    # What convolutions are quick with, on processors (1.3 to 1.6 times) as on GPUs.
    network = clip.model.to(memory_format=torch.channels_last)
    return replace(clip, model=network, batch=batch or BATCHES[kind], bf16=bf16)


def embed_images(clip: ClipModel, images: Iterable[Image.Image]) -> np.ndarray:
    """float32 [n, d], each row of length 1."""
    return embed_once([clip], images, on_white)[0]


def embed_once(
    clips: Sequence[ClipModel], items: Iterable[T], decode: Callable[[T], Image.Image]
) -> list[np.ndarray]:
    """What each model makes of the pictures that `decode` makes of `items`, each decoded once.

    Pictures are decoded in threads while a GPU works; on a processor, of which there is a process
    a core, in turn with the models. No more of them than two batches are in memory.

    Returns:
        For each model float32 [n, d], each row of length 1.
    """

    def inputs(item: T) -> list["torch.Tensor"]:
        picture = decode(item)
        return [clip.preprocess(picture) for clip in clips]

    size = max(clip.batch for clip in clips)
    threads = max(_decoders(clip.device) for clip in clips)
    found: list[list[np.ndarray]] = [[] for _ in clips]
    for batch in batched(ahead(inputs, items, threads, 2 * size), size):
        for rows, clip, pixels in zip(found, clips, zip(*batch, strict=True), strict=True):
            rows.append(_embed(pixels, clip.model.encode_image, _stacked, clip))
    return [
        np.concatenate(rows) if rows else np.zeros((0, _width(clip)), np.float32)
        for rows, clip in zip(found, clips, strict=True)
    ]


def embed_texts(clip: ClipModel, texts: list[str]) -> np.ndarray:
    """float32 [n, d], each row of length 1. Texts beyond the model's context are cut."""
    if not texts:
        return np.zeros((0, _width(clip)), np.float32)
    return _embed(texts, clip.model.encode_text, clip.tokenizer, clip)


def ahead(function: Callable[[T], R], items: Iterable[T], threads: int, most: int) -> Iterator[R]:
    """`map`, up to `most` results ahead of their reader, in threads; as asked for without any."""
    if not threads:
        yield from map(function, items)
        return
    left = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque(pool.submit(function, item) for item in islice(left, most))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(left, 1))
            yield result


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one of those that are left."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


def pair_scores(clip: ClipModel, images: list[Image.Image], texts: list[str]) -> np.ndarray:
    """Cosine of image i and text i, float32 [n] in [-1, 1], rounded to 4 decimals.

    Raises:
        ValueError: the lists are of different lengths.
    """
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} images for {len(texts)} texts")
    products = embed_images(clip, images) * embed_texts(clip, texts)
    return np.asarray(np.round(products.sum(axis=1), 4))


def _safe_weights(model: str, pretrained: str | None) -> str:
    if pretrained is None:
        raise ValueError(f"{model} needs pretrained: an open_clip tag or a safetensors file")
    if Path(pretrained).is_file() and Path(pretrained).suffix != ".safetensors":
        raise ValueError(f"{pretrained} is not a .safetensors file: pickled weights are refused")
    return pretrained


def create(
    model: str, pretrained: str | None = None, device: str | None = None, **preprocess: Any
) -> ClipModel:
    """Any model that open_clip knows; one without weights has random ones."""
    import open_clip
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network, _, transform = open_clip.create_model_and_transforms(
        model, pretrained=pretrained, device=device, **preprocess
    )
    return ClipModel(network.eval(), transform, open_clip.get_tokenizer(model), device)


def _device() -> str:
    """Of several GPUs one by the number of the process, so that processes share them out."""
    import torch

    if torch.cuda.is_available():
        return f"cuda:{os.getpid() % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _decoders(device: str) -> int:
    return 0 if device == "cpu" else min(MOST_DECODERS, os.cpu_count() or 1)


def _stacked(pixels: list["torch.Tensor"]) -> "torch.Tensor":
    import torch

    return torch.stack(pixels)


def _embed(
    items: Sequence[Any],
    encode: Callable[["torch.Tensor"], "torch.Tensor"],
    tensor: Callable[[list[Any]], "torch.Tensor"],
    clip: ClipModel,
) -> np.ndarray:
    import torch

    kind = torch.device(clip.device).type
    with torch.inference_mode(), torch.autocast(kind, torch.bfloat16, enabled=clip.bf16):
        rows = [
            encode(_padded(tensor(batch), clip.batch).to(clip.device))
            for batch in batched(items, clip.batch)
        ]
        unit = torch.nn.functional.normalize(torch.cat(rows)[: len(items)].float(), dim=-1)
    return unit.cpu().numpy()


def _padded(batch: "torch.Tensor", size: int) -> "torch.Tensor":
    import torch

    missing = size - len(batch)
    return torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])])


def _width(clip: ClipModel) -> int:
    return int(_embed([""], clip.model.encode_text, clip.tokenizer, clip).shape[1])
