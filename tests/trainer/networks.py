"""A tiny CLIP network with random weights in a folder, and pairs that it can learn."""

import io
import json
from pathlib import Path

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from filters.clip import CONFIG, WEIGHTS

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
COLOURS = ("red", "green", "blue", "black", "orange", "purple", "brown", "pink")
SHAPES = ("rectangle", "ellipse")


def tiny_network(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    torch.manual_seed(5)
    save_file(open_clip.CLIP(**TINY).state_dict(), folder / WEIGHTS)
    return folder


def shape_pairs(folder: Path) -> Path:
    """A table of 96 pictures of a coloured shape somewhere, of six sources of 16 pairs each."""
    folder.mkdir(parents=True)
    rows = []
    for place in range(6):
        for colour in COLOURS:
            for shape in SHAPES:
                name = f"{place}-{colour}-{shape}.png"
                (folder / name).write_bytes(_drawn(place, colour, shape))
                rows.append(
                    {"file": name, "caption": f"a {colour} {shape}", "source": f"place {place}"}
                )
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def _drawn(place: int, colour: str, shape: str) -> bytes:
    image = Image.new("RGB", (48, 48), "white")
    left, top = 8 * (place % 3), 16 * (place // 3)
    # What tells one picture's hash from another's, since it sees no colours.
    step = 3 + COLOURS.index(colour)
    for x in range(0, 48, step):
        ImageDraw.Draw(image).line([(x, 0), (x + 2 * place, 47)], "grey")
    getattr(ImageDraw.Draw(image), shape)([left, top, left + 24, top + 24], fill=colour)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
