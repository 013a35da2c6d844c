"""Other readers see in the shards of a real run what `shards.loader` sees."""

import io
import json
import tarfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import webdataset

from shards import tar
from shards.loader import Sequence, open_shards, shards_folder

if TYPE_CHECKING:
    from pipelines.config.recipe import Recipe


@pytest.fixture(scope="module")
def folder(small_run: "Recipe") -> Path:
    return shards_folder(small_run.out / "shards")


@pytest.fixture(scope="module")
def read(folder: Path) -> list[Sequence]:
    return list(open_shards(folder).read())


def content(sequence: Sequence) -> dict[str, Any]:
    """The members that stand for a sequence: its JSON, read, and its images as bytes."""
    about = {
        "position": sequence.position,
        "corpus": sequence.corpus,
        "tokens": sequence.tokens,
        "images": len(sequence.images),
        "segments": sequence.segments,
    }
    return {"json": about, **sequence.images}


def test_there_is_something_to_read(read: list[Sequence]):
    assert {sequence.corpus for sequence in read} == {"captions", "interleaved", "text"}
    assert any(len(sequence.images) > 1 for sequence in read)
    assert [sequence.position for sequence in read] == list(range(len(read)))


def test_images_are_named_in_the_order_of_the_parts(read: list[Sequence]):
    for sequence in read:
        parts = [part for segment in sequence.segments for part in segment["parts"]]
        assert [part["image"] for part in parts if "image" in part] == list(sequence.images)


def test_plain_tar(folder: Path, read: list[Sequence]):
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as shard:
            for member in shard:
                key, _, suffix = member.name.partition(".")
                data = shard.extractfile(member).read()
                found.setdefault(key, {})[suffix] = json.loads(data) if suffix == "json" else data
    assert found == {f"{s.position:09d}": content(s) for s in read}


def test_plain_webdataset(folder: Path, read: list[Sequence]):
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{s.position:09d}" for s in read]
    found = [{k: v for k, v in sample.items() if not k.startswith("__")} for sample in samples]
    assert [f | {"json": json.loads(f["json"])} for f in found] == [content(s) for s in read]


def hugging_face(folder: Path, *, decode: bool) -> list[dict[str, Any]]:
    from datasets import Features, Image, Json, Value, load_dataset

    columns: dict[str, Any] = {"__key__": Value("string"), "__url__": Value("string")}
    columns["json"] = Json()
    for k, extension in product(range(16), tar.EXTENSIONS.values()):
        columns[f"{k:02d}.{extension}"] = Image(decode=decode)
    files = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = load_dataset(
        "webdataset",
        data_files=files,
        split="train",
        streaming=True,
        features=Features(columns),
    )
    return [{name: value for name, value in row.items() if value is not None} for row in data]


def test_hugging_face_datasets(folder: Path, read: list[Sequence]):
    rows = hugging_face(folder, decode=False)
    assert [row["__key__"] for row in rows] == [f"{s.position:09d}" for s in read]
    for row, sequence in zip(rows, read, strict=True):
        members = {k: v for k, v in row.items() if not k.startswith("__")}
        images = {name: image["bytes"] for name, image in members.items() if name != "json"}
        assert {"json": members["json"], **images} == content(sequence)


def test_hugging_face_decodes_the_images(folder: Path, read: list[Sequence]):
    from PIL import Image

    rows = hugging_face(folder, decode=True)
    for row, sequence in zip(rows, read, strict=True):
        for name, data in sequence.images.items():
            assert row[name].size == Image.open(io.BytesIO(data)).size
