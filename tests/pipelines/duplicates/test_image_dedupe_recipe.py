"""A recipe with every way to tell pictures apart, from a table of URLs to verified shards."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from pipelines.config.recipe import load_recipe
from pipelines.fetching.site import Site
from shards import ledger
from shards.verify import verify
from tests.pipelines.small import SAMPLE, run_quietly

WALLPAPERS = "stamps.mixwright.example/wallpapers"


def steps(evaluation: Path) -> list[Any]:
    return [
        {"copies": {"of": "caption", "most": 3}},
        "download",
        {"copies": {"of": "image", "most": 10}},
        {"clip": {"embeddings": True}},
        {"decontaminate_images": {"files": [str(evaluation)]}},
        {"dedupe": {"exact": ["url", "image"], "near_image": {}, "semantic": {"threshold": 0.999}}},
    ]


def test_pictures_are_told_apart_from_urls_to_shards(site: Site, tmp_path: Path):
    """Five of six pictures once and twice, one of an evaluation set, and a caption of five."""
    paths = sorted((SAMPLE / "www" / WALLPAPERS).glob("*.jpg"))[:11]
    urls = [f"http://{WALLPAPERS}/{path.name}" for path in paths]
    rows = [(url, f"The wallpaper of number {i}") for i, url in enumerate(urls[:6])]
    rows += [(url, f"Once more, the wallpaper of number {i}") for i, url in enumerate(urls[:5])]
    rows += [(url, "A wallpaper") for url in urls[6:]]
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table(columns, ["url", "caption"]), tmp_path / "captions.parquet")
    write_smaller(paths[5], tmp_path / "eval" / "test.jpg")
    recipe = {
        "name": "told-apart",
        "out": str(tmp_path / "run"),
        "download": {"connect_to": {"*.mixwright.example": site.address}},
        "corpora": {
            "captions": {
                "read": {"files": [str(tmp_path / "captions.parquet")], "rows_per_part": 6},
                "steps": steps(tmp_path / "eval"),
            }
        },
        "mix": {"weights": {"captions": 1}, "seq_len": 512, "image_tokens": 16},
        "runner": {"workers": 1, "options": {"direct_running_mode": "in_memory"}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    made = load_recipe(tmp_path / "recipe.yaml")
    ran = run_quietly(made)
    dropped = {
        stage: ledger.read_counts(ledger.current(made.out / stage)).dropped.get("document", {})
        for stage in ran
    }
    assert dropped["captions/copies"] == {"caption_too_frequent": 2}
    assert dropped["captions/decontaminate_images"] == {"image_contaminated": 1}
    assert sum(dropped["captions/dedupe"].values()) == 5
    assert verify(made.out / "shards") == []


def write_smaller(path: Path, place: Path) -> None:
    with Image.open(path) as picture:
        half = picture.convert("RGB").resize((picture.width // 2, picture.height // 2))
    file = io.BytesIO()
    half.save(file, "JPEG", quality=70)
    place.parent.mkdir()
    place.write_bytes(file.getvalue())
