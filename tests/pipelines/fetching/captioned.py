"""Runs that download captioned pictures from a web, and what they have stored then."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from pipelines.config.recipe import Recipe, load_recipe
from pipelines.images import read_index
from shards import ledger
from shards.images import read_images
from tests.pipelines.fetching.web import Web
from tests.pipelines.small import SAMPLE

PICTURES = sorted((SAMPLE / "www" / "pictures.mixwright.example" / "noto").glob("*.png"))


def captioned(folder: Path, web: Web, steps: Sequence[object], **download: object) -> Recipe:
    """A recipe that reads the tables (.tsv) of a folder, two rows a part."""
    tree = {
        "name": "captioned",
        "out": str(folder / "run"),
        "corpora": {
            "captions": {
                "read": {"files": [str(folder / "*.tsv")], "rows_per_part": 2},
                "steps": list(steps),
            }
        },
        "download": {
            "connect_to": {"*.test": f"127.0.0.1:{web.port}"},
            "per_host_rate": 500,
            "retries": 0,
            **download,
        },
        "mix": {"weights": {"captions": 1}},
        "runner": {"workers": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return load_recipe(folder / "recipe.yaml", [])


def output(made: Recipe) -> Path:
    """The current folder of the download."""
    found = ledger.current(made.out / "captions" / "download")
    assert isinstance(found, Path)
    return found


def stored(made: Recipe) -> dict[str, tuple[str, bytes]]:
    """The sha256 and the stored bytes of the picture at each path that has one, by the indexes."""
    found: dict[str, tuple[str, bytes]] = {}
    for part in range(ledger.part_count(output(made))):
        index = read_index(output(made), part)
        held = index.filter(index["tar"].is_valid())
        facts = zip(held["sha256"].to_pylist(), read_images(output(made), held), strict=True)
        found |= zip((urlsplit(url).path for url in held["url"].to_pylist()), facts, strict=True)
    return found
