import io
import itertools
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import webdataset

from shards import loader, storage, tar


def test_a_sequence_json_names_its_images_by_member(mixture: Any) -> None:
    sequence = tar.sequence_json(3, mixture.rows[3])
    assert sequence["corpus"] == "captions" and sequence["images"] == 1
    image, text = sequence["segments"][0]["parts"]
    assert image["image"] == "00.gif" and image["tokens"] == 16
    assert len(image["sha256"]) == 64
    assert text["text"].startswith("Document 3.0 says: grüße, 世界")
    assert sequence["tokens"] == 2 + 16 + sum(
        part["tokens"] for s in sequence["segments"] for part in s["parts"] if "text" in part
    )
    assert sequence["segments"][0]["url"] == "http://site-0.example/3"


def test_members_are_in_order_and_say_nothing_of_when_and_who(folder: Path, mixture: Any) -> None:
    with tarfile.open(folder / "mixwright-00000.tar") as opened:
        members = opened.getmembers()
    due = []
    for position, row in enumerate(mixture.rows[:15]):
        due.append(f"{position:09d}.json")
        for k, part in enumerate(tar.image_parts(row)):
            due.append(f"{position:09d}.{tar.image_member(k, part)}")
    assert [member.name for member in members] == due
    for member in members:
        facts = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
        assert facts == (0, 0, 0, "", "", 0o644)
        assert member.isreg() and not member.pax_headers
    assert (folder / "mixwright-00000.tar").stat().st_size % tarfile.RECORDSIZE == 0


def test_the_index_says_where_every_member_is(folder: Path) -> None:
    index = storage.read_table(folder / "mixwright-00001.parquet")
    assert index.schema.equals(tar.INDEX)
    with tarfile.open(folder / "mixwright-00001.tar") as opened:
        places = [(m.name, m.offset_data, m.size) for m in opened]
    columns = [index[name].to_pylist() for name in ("member", "offset", "length")]
    assert list(zip(*columns, strict=True)) == places
    row = index.to_pylist()[0]
    assert row["position"] == 15
    assert row["documents"] == [f"{15:016x}{number:016x}" for number in (0, 1)]
    assert [segment["source"] for segment in row["segments"]] == ["site-0", "site-1"]
    assert sum(segment["tokens"] for segment in row["segments"]) == row["tokens"]
    assert sum(segment["images"] for segment in row["segments"]) == row["images"]


def test_the_same_sequences_give_the_same_bytes(tmp_path: Path, mixture: Any) -> None:
    infos = [mixture.write(tmp_path / name, 5, 12) for name in "ab"]
    assert infos[0] == infos[1]
    for suffix in ("tar", "parquet"):
        name = f"mixwright-00000.{suffix}"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_shard_says_what_it_holds(tmp_path: Path, mixture: Any) -> None:
    info = mixture.write(tmp_path, 5, 12)
    path = tmp_path / info.name
    assert (info.name, info.first, info.sequences) == ("mixwright-00000.tar", 5, 7)
    assert info.bytes == path.stat().st_size
    assert info.sha256 == storage.sha256_file(path)
    assert info.index_sha256 == storage.sha256_file(path.with_suffix(".parquet"))
    rows = [row for row in mixture.rows[5:12] if row["corpus"] == "captions"]
    assert info.corpora["captions"] == {
        "sequences": len(rows),
        "tokens": sum(row["tokens"] for row in rows),
        "images": sum(row["images"] for row in rows),
        "documents": 2 * len(rows),
    }


def test_pieces_of_a_document_in_one_sequence_are_one_document(
    tmp_path: Path, mixture: Any
) -> None:
    row = mixture.rows[3]
    twice = row | {"segments": [row["segments"][0], row["segments"][0]]}
    info = tar.write_shard(tmp_path / "a.tar", [(0, twice)], mixture.image_bytes)
    assert info.corpora["captions"]["documents"] == 1


def test_the_manifest_adds_the_shards_up(folder: Path, mixture: Any) -> None:
    manifest = storage.read_json(folder / "manifest.json")
    assert manifest.keys() == loader.MANIFEST_KEYS | {"resized"}
    assert manifest["sequences"] == 40
    assert [shard["first"] for shard in manifest["shards"]] == [0, 15, 30]
    counts = {name: sums["sequences"] for name, sums in manifest["corpora"].items()}
    assert counts == {"interleaved": 18, "captions": 18, "text": 4}
    text = manifest["corpora"]["text"]
    assert text["padding"] == 4 * 256 - text["tokens"] and text["images"] == 0


def test_what_is_refused_leaves_no_shard(tmp_path: Path, mixture: Any) -> None:
    rows = mixture.rows
    path = tmp_path / "a.tar"
    with pytest.raises(ValueError, match="position 2 follows 0"):
        tar.write_shard(path, [(0, rows[0]), (2, rows[2])], mixture.image_bytes)
    with pytest.raises(ValueError, match=r"no sequences for a\.tar"):
        tar.write_shard(path, [], mixture.image_bytes)
    with pytest.raises(ValueError, match="0 images for the 1 of sequence 3"):
        tar.write_shard(path, [(3, rows[3])], lambda parts: [])
    assert list(tmp_path.iterdir()) == []


# Other readers see the same sequences.


def sequences_of(folder: Path) -> list[tuple[int, dict[str, Any], dict[str, bytes]]]:
    """(position, segments, images) by our own loader."""
    return [(s.position, s.segments, s.images) for s in loader.open_shards(folder).read()]


def tars_of(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("*.tar"))


def test_plain_tarfile_reads_the_same(folder: Path) -> None:
    found: dict[int, dict[str, bytes]] = {}
    for path in tars_of(folder):
        with tarfile.open(path) as opened:
            for member in opened:
                position, suffix = member.name.split(".", 1)
                data = opened.extractfile(member)
                assert data is not None
                found.setdefault(int(position), {})[suffix] = data.read()
    read = [(p, json.loads(m.pop("json"))["segments"], m) for p, m in found.items()]
    assert read == sequences_of(folder)
    assert {len(images) for _, _, images in read} == {0, 1, 2, 3}


def test_plain_webdataset_reads_the_same(folder: Path) -> None:
    urls = str(folder / "mixwright-{00000..00002}.tar")
    samples = webdataset.WebDataset(urls, shardshuffle=False)
    read = []
    for sample in samples:
        images = {name: data for name, data in sample.items() if name[:2].isdigit()}
        segments = json.loads(sample["json"])["segments"]
        read.append((int(sample["__key__"]), segments, images))
    assert read == sequences_of(folder)


def test_hugging_face_datasets_read_the_same(folder: Path, tmp_path: Path) -> None:
    from datasets import Features, Image, Json, Value, load_dataset

    columns = {"__key__": Value("string"), "__url__": Value("string"), "json": Json()}
    for k, extension in itertools.product(range(3), tar.EXTENSIONS.values()):
        columns[f"{k:02d}.{extension}"] = Image(decode=False)
    dataset = load_dataset(
        "webdataset",
        data_files=tars_of(folder),
        split="train",
        streaming=True,
        features=Features(columns),
        cache_dir=str(tmp_path / "cache"),
    )
    read = []
    for sample in dataset:
        images = {k: v["bytes"] for k, v in sample.items() if k[:2].isdigit() and v is not None}
        read.append((int(sample["__key__"]), sample["json"]["segments"], images))
    assert read == sequences_of(folder)


def test_hugging_face_datasets_decode_the_pictures(folder: Path, tmp_path: Path) -> None:
    from datasets import Features, Image, Json, load_dataset
    from PIL import Image as Pillow

    sequence = loader.open_shards(folder)[3]
    dataset = load_dataset(
        "webdataset",
        data_files=tars_of(folder)[:1],
        split="train",
        streaming=True,
        features=Features({"json": Json(), "00.gif": Image()}),
        cache_dir=str(tmp_path / "cache"),
    )
    sample = next(s for s in dataset if s["json"]["position"] == 3)
    assert sample["00.gif"].size == Pillow.open(io.BytesIO(sequence.images["00.gif"])).size
