"""Small shards with known content, written by the project's own writer."""

from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from shards import storage, tar, tokens

SEQ_LEN, IMAGE_TOKENS = 64, 4


def png(colour: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (40, 24), (colour % 256, 90, 30)).save(file, "PNG")
    return file.getvalue()


def text(words: str) -> dict[str, Any]:
    counted = tokens.count_tokens(tokens.load_tokenizer(), [words])
    return {"text": words, "sha256": None, "format": None, "tokens": int(counted[0])}


def image(colour: int) -> dict[str, Any]:
    # The name of an image is free here; its number says which colour `png` gives it.
    return {"text": None, "sha256": str(colour), "format": "png", "tokens": IMAGE_TOKENS}


def sequence(corpus: str, *documents: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of SEQUENCE with one segment for each document."""
    parts = [part for document in documents for part in document]
    origin = {"first_part": 0, "source": corpus, "url": None, "licence": None}
    return {
        "corpus": corpus,
        "tokens": sum(part["tokens"] for part in parts) + len(documents),
        "images": sum(part["text"] is None for part in parts),
        "segments": [
            {"id": f"{corpus}-{k}", "parts": parts} | origin for k, parts in enumerate(documents)
        ],
    }


def write_shards(root: Path, rows: list[dict[str, Any]], per_shard: int = 4) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    infos = [
        tar.write_shard(
            root / f"mixwright-{first // per_shard:05d}.tar",
            enumerate(rows[first : first + per_shard], first),
            lambda parts: [png(int(part["sha256"])) for part in parts],
        )
        for first in range(0, len(rows), per_shard)
    ]
    manifest = tar.make_manifest(
        infos,
        seq_len=SEQ_LEN,
        image_tokens=IMAGE_TOKENS,
        max_images=4,
        tokenizer=tokens.tokenizer_identity(),
        seed=0,
        weights={"captions": 2, "text": 1},
    )
    storage.write_json(root / tar.MANIFEST, manifest)
    return root


def mixture(count: int) -> list[dict[str, Any]]:
    """Two sequences of captions, then one of text, and so on."""
    captions = [
        sequence(
            "captions",
            [image(3 * k), text(f"a photo of {k} red apples")],
            [image(3 * k + 1), text(f"the number {k} on a wall")],
        )
        for k in range(count)
    ]
    prose = [sequence("text", [text(f"Chapter {k}. It was a dark night.")]) for k in range(count)]
    return [(prose if k % 3 == 2 else captions)[k] for k in range(count)]
