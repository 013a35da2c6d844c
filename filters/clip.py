"""CLIP scores of image-text pairs, from the bundled network or any open_clip model.

A pair's score is the cosine of its image and text embeddings (Radford et al. 2021, CLIP,
section 2.3). torch and open_clip load on first use, so that importing this module is cheap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

BUNDLED = "mixwright-small"
# The files of a network's folder, named as open_clip itself writes and reads them.
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# Models always see batches of this one shape: a product of another shape may round otherwise,
# and a score would then depend on how the caller had batched its pairs.
BATCH = 16
# What the bundled network was trained on. Squashing keeps the borders of wide figures, which
# a centre crop would lose.
BUNDLED_PREPROCESS: dict[str, Any] = {
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
    "image_interpolation": "bicubic",
    "image_resize_mode": "squash",
}


@dataclass(frozen=True)
class ClipModel:
    """An open_clip model in eval mode, with its own preprocessing and tokenizer."""

    model: Any
    preprocess: Callable[[Image.Image], "torch.Tensor"]
    tokenizer: Callable[[list[str]], "torch.Tensor"]
    device: str


def load_clip(model: str = BUNDLED, pretrained: str | None = None) -> ClipModel:
    """Loads the bundled network, a network's folder, or an open_clip model and its weights.

    Args:
        model: "mixwright-small" (bundled, needs no network), an open_clip model name, or a folder
            of CONFIG and WEIGHTS, as `mixwright train-filter` writes it.
        pretrained: an open_clip tag (downloaded by open_clip) or the path of a safetensors file.

    Raises:
        ValueError: `pretrained` is given for a network that brings its own weights, is missing
            for another one, or is a local file that is not safetensors: unpickling a file can run
            its code. A folder lacks one of its files.
        RuntimeError: open_clip knows no such model or tag.
    """
    folder = network_folder(model)
    if model != BUNDLED and folder is None:
        return create(model, _safe_weights(model, pretrained))
    if pretrained is not None:
        raise ValueError(f"{model} brings its own weights: leave pretrained out")
    if folder is not None:
        return create(f"local-dir:{folder}")
    with as_file(files("filters") / "weights") as folder:
        register_config(folder / f"{BUNDLED}.json")
        return create(BUNDLED, str(folder / f"{BUNDLED}.safetensors"), **BUNDLED_PREPROCESS)


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


def embed_images(clip: ClipModel, images: list[Image.Image]) -> np.ndarray:
    """float32 [n, d], each row of length 1."""
    return _embed(images, clip.model.encode_image, lambda batch: _pixels(clip, batch), clip)


def embed_texts(clip: ClipModel, texts: list[str]) -> np.ndarray:
    """float32 [n, d], each row of length 1. Texts beyond the model's context are cut."""
    return _embed(texts, clip.model.encode_text, clip.tokenizer, clip)


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


def create(model: str, pretrained: str | None = None, **preprocess: Any) -> ClipModel:
    """Any model that open_clip knows; one without weights has random ones."""
    import open_clip
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network, _, transform = open_clip.create_model_and_transforms(
        model, pretrained=pretrained, device=device, **preprocess
    )
    return ClipModel(network.eval(), transform, open_clip.get_tokenizer(model), device)


def _pixels(clip: ClipModel, images: list[Image.Image]) -> "torch.Tensor":
    import torch

    return torch.stack([clip.preprocess(on_white(image)) for image in images])


def _embed(
    items: list[Any],
    encode: Callable[["torch.Tensor"], "torch.Tensor"],
    tensor: Callable[[list[Any]], "torch.Tensor"],
    clip: ClipModel,
) -> np.ndarray:
    import torch

    if not items:
        return np.zeros((0, _width(clip)), np.float32)
    with torch.inference_mode():
        rows = [
            encode(_padded(tensor(items[start : start + BATCH])).to(clip.device))
            for start in range(0, len(items), BATCH)
        ]
        unit = torch.nn.functional.normalize(torch.cat(rows)[: len(items)].float(), dim=-1)
    return unit.cpu().numpy()


def _padded(batch: "torch.Tensor") -> "torch.Tensor":
    import torch

    missing = BATCH - len(batch)
    return torch.cat([batch, batch[:1].expand(missing, *batch.shape[1:])])


def _width(clip: ClipModel) -> int:
    return int(_embed([""], clip.model.encode_text, clip.tokenizer, clip).shape[1])
