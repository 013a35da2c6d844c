"""A small mixture of real pictures and words, written as shards."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shards import storage, tar, tokens
from tests.shards.buckets import _served, bucket, server  # noqa: F401

SEQ_LEN, IMAGE_TOKENS, MAX_IMAGES = 256, 16, 3
WEIGHTS = {"interleaved": 45, "captions": 45, "text": 10}
FORMATS = ("jpeg", "png", "gif", "webp")
PICTURES = {"interleaved": (1, 2), "captions": (3, 1), "text": (0,)}


def picture(number: int) -> tuple[str, bytes]:
    """The format and bytes of a small picture of its own."""
    name = FORMATS[number % len(FORMATS)]
    out = io.BytesIO()
    Image.new("RGB", (8 + number % 5, 8), (number * 7 % 256, 90, 30)).save(out, name)
    return name, out.getvalue()


@dataclass(frozen=True)
class Mixture:
    """Rows of SEQUENCE by position, and the bytes of their pictures by sha256."""

    rows: list[dict[str, Any]]
    pictures: dict[str, bytes]

    def image_bytes(self, parts: list[dict[str, Any]]) -> list[bytes]:
        return [self.pictures[part["sha256"]] for part in parts]

    def write(self, folder: Path, first: int, end: int) -> tar.ShardInfo:
        """Sequences `first` to `end` as the next shard of `folder`."""
        number = len(list(folder.glob("*.tar")))
        path = folder / f"mixwright-{number:05d}.tar"
        sequences = list(enumerate(self.rows))[first:end]
        return tar.write_shard(path, sequences, self.image_bytes)


@pytest.fixture(scope="session")
def mixture() -> Mixture:
    tokenizer = tokens.load_tokenizer()
    rows, pictures, counts = [], {}, Counter[str]()

    def text_part(text: str) -> dict[str, Any]:
        empty = dict.fromkeys(("sha256", "format", "tar", "offset", "length"))
        return {"text": text, **empty, "tokens": int(tokens.count_tokens(tokenizer, [text])[0])}

    def image_part(number: int) -> dict[str, Any]:
        name, data = picture(number)
        sha256 = hashlib.sha256(data).hexdigest()
        pictures[sha256] = data
        place = {"tar": "images/part-00000.tar", "offset": 512, "length": len(data)}
        return {"text": None, "sha256": sha256, "format": name, **place, "tokens": IMAGE_TOKENS}

    def segment(position: int, number: int, images: int) -> dict[str, Any]:
        texts = [text_part(f"Document {position}.{number} says: grüße, 世界 <image> {'wörd ' * 5}")]
        return {
            "id": f"{position:016x}{number:016x}",
            "first_part": 0,
            "source": f"site-{number}",
            "url": f"http://site-{number}.example/{position}",
            "licence": "CC-BY-4.0" if number == 0 else None,
            "parts": [image_part(10 * position + k) for k in range(images)] + texts,
        }

    for position in range(40):
        due = {name: weight * (position + 1) for name, weight in WEIGHTS.items()}
        corpus = max(WEIGHTS, key=lambda name: due[name] - 100 * counts[name])
        images = PICTURES[corpus][counts[corpus] % len(PICTURES[corpus])]
        counts[corpus] += 1
        segments = [segment(position, 0, images), segment(position, 1, 0)]
        length = sum(1 + sum(part["tokens"] for part in s["parts"]) for s in segments)
        row = {"corpus": corpus, "tokens": length, "images": images, "segments": segments}
        rows.append(row)
    return Mixture(rows, pictures)


@pytest.fixture
def write_manifest() -> Callable[..., None]:
    """Writes the manifest of `infos` to a folder; keywords replace its settings."""

    def write(folder: Path, infos: list[tar.ShardInfo], **changes: Any) -> None:
        settings = {
            "seq_len": SEQ_LEN,
            "image_tokens": IMAGE_TOKENS,
            "max_images": MAX_IMAGES,
            "tokenizer": tokens.tokenizer_identity(),
            "seed": 7,
            "weights": WEIGHTS,
        }
        manifest = tar.make_manifest(infos, **(settings | changes))
        storage.write_json(folder / tar.MANIFEST, manifest)

    return write


@pytest.fixture
def folder(tmp_path: Path, mixture: Mixture, write_manifest: Callable[..., None]) -> Path:
    """Forty sequences in three shards, of 15, 15 and 10."""
    root = tmp_path / "shards"
    infos = [mixture.write(root, first, first + 15) for first in (0, 15, 30)]
    write_manifest(root, infos)
    return root
