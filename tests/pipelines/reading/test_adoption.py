"""WebDataset shards, as img2dataset's own writer makes them, are read where they are."""

import gzip
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import webdataset

from configs.reading import ConfigError
from pipelines import mix
from pipelines.config.recipe import Mix
from pipelines.config.sources import Tables
from pipelines.config.steps import Download
from pipelines.fetching.download import download_stage
from pipelines.images import read_index
from pipelines.reading.captions import read_stage
from pipelines.reading.records import Lost
from pipelines.reading.tables import read_slice, slices
from shards import ledger
from shards.images import read_images
from shards.loader import open_shards
from shards.storage import read_table
from shards.stores.options import StorageOptions
from shards.verify import verify
from tests.pipelines.by_hand import run_stage, source
from tests.pipelines.small import SAMPLE

FOLDER = SAMPLE / "www" / "pictures.mixwright.example" / "noto"
BODIES = [path.read_bytes() for path in sorted(FOLDER.glob("*.png"))[:4]]
META = {"status": "success", "licence": "CC0-1.0", "recaption": "A drawing.", "pwatermark": 0.25}

Written = Sequence[tuple[bytes | None, str, dict[str, Any]]]


def img2dataset_shard(folder: Path, samples: Written) -> Path:
    """A shard by img2dataset's writer, loaded alone: its package loads torch."""
    package = importlib.util.find_spec("img2dataset")
    assert package is not None and package.origin is not None
    place = Path(package.origin).with_name("writer.py")
    spec = importlib.util.spec_from_file_location("img2dataset_writer", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    columns = pa.schema([("key", pa.string()), ("url", pa.string()), ("status", pa.string())])
    writer = module.WebDatasetSampleWriter(0, str(folder), True, 5, columns, "png")
    for number, (body, caption, meta) in enumerate(samples):
        key = f"{number:09d}"
        writer.write(body, key, caption, {"key": key, "caption": caption, **META, **meta})
    writer.close()
    return folder / "00000.tar"


def url(number: int) -> dict[str, Any]:
    return {"url": f"http://gone.test/{number}.png"}


def rows(file: Path, **options: Any) -> list[Any]:
    """The samples of a shard; of what was lost the reason."""
    tables = Tables.model_validate({"files": [str(file)], **options})
    found = [
        row for part in slices(tables, "read", StorageOptions()) for _, row in read_slice(part)
    ]
    return [row.reason if isinstance(row, Lost) else row for row in found]


def test_pictures_go_from_their_tar_into_the_mixture_and_are_not_downloaded(tmp_path: Path):
    failed = {"status": "failed_to_download"}
    samples = [(body, f"Picture {n}.", url(n)) for n, body in enumerate(BODIES)]
    samples += [(b"no picture", "A cat.", url(7)), (BODIES[0], " ", url(8))]
    samples += [(None, "Lost.", url(9) | failed)]  # which the writer leaves out
    options = {"source": "old", "licence": "licence", "extra": ["pwatermark"]}
    synthetic = {"text": "recaption", "source": "vecap"}
    tar = img2dataset_shard(tmp_path, samples)
    tables = Tables.model_validate({"files": [str(tar)], "synthetic": synthetic, **options})
    reading = read_stage("captions/read", [tables], StorageOptions())
    assert reading.parts is not None
    read = run_stage(reading, tmp_path / "read", [tmp_path])
    assert ledger.read_counts(read.out).dropped == {"document": {"no_caption": 1}}
    fetching = download_stage("captions/download", reading, Download(), reading)
    fetched = run_stage(fetching, tmp_path / "download", [read.out], [read.out])

    documents = read_table(fetched.out / "documents" / "part-00000.parquet").to_pylist()
    assert [(d["source"], d["parts"][1]["text"]) for d in documents[:2]] == [
        ("old", "Picture 0."),
        ("vecap", "A drawing."),
    ]
    assert {d["licence"] for d in documents} == {"CC0-1.0"}
    assert json.loads(documents[0]["extra"]) == {"pwatermark": 0.25}
    assert ledger.read_counts(fetched.out).dropped["image"] == {"image_not_decodable": 2}
    assert list((fetched.out / "store").glob("*.tar")) == []  # nothing is stored twice
    index = read_index(fetched.out, 0)
    held = index.filter(index["reason"].is_null())
    assert set(held["tar"].to_pylist()) == {str(tar)}
    assert read_images(fetched.out, held.slice(0, 4)) == BODIES

    given = mix.Source("captions", source("download"), source("download"))
    about = Mix(weights={"captions": 1}, seq_len=512, sequences_per_shard=4)
    packing, mixing = mix.stages(about, 1, [given], resized=False)
    packed = run_stage(packing, tmp_path / "pack", [fetched.out], [fetched.out])
    shards = run_stage(mixing, tmp_path / "shards", [], [packed.out])
    assert verify(shards.out) == []
    shown = {body for s in open_shards(shards.out).read() for body in s.images.values()}
    assert shown == set(BODIES)


def test_a_picture_whose_sample_tells_no_url_is_named_by_its_place(tmp_path: Path):
    with webdataset.TarWriter(str(tmp_path / "t.tar")) as tar:
        tar.write({"__key__": "a/x", "png": BODIES[0], "txt": "A cat."})
        tar.write({"__key__": "a/y", "txt": "A dog."})
    first, second = rows(tmp_path / "t.tar")
    assert (first["url"], first["text"]) == (f"{tmp_path}/t.tar/a/x.png", "A cat.")
    assert second == "no_picture"


def test_a_tar_that_ends_too_soon_gives_what_is_before_and_an_error(tmp_path: Path):
    tar = img2dataset_shard(tmp_path, [(body, "A cat.", url(n)) for n, body in enumerate(BODIES)])
    whole = tar.read_bytes()
    tar.write_bytes(whole[: whole.index(BODIES[2]) + 100])
    *before, last = rows(tar)
    assert [row["url"] for row in before] == [url(0)["url"], url(1)["url"]]
    assert last == "bad_record"


def test_compressed_shards_are_refused(tmp_path: Path):
    whole = img2dataset_shard(tmp_path, [(BODIES[0], "A cat.", url(0))]).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(whole))
    with pytest.raises(ConfigError, match="is compressed, and pictures are read where they are"):
        rows(tmp_path / "a.tar.gz")
    (tmp_path / "a.tar").write_bytes(gzip.compress(whole))
    assert rows(tmp_path / "a.tar") == ["bad_record"]


def test_a_field_that_the_samples_lack_is_an_error_that_lists_those_they_have(tmp_path: Path):
    tar = img2dataset_shard(tmp_path, [(BODIES[0], "A cat.", url(0))])
    with pytest.raises(ConfigError, match="no column 'rights'; it has key, caption, status"):
        rows(tar, licence="rights")


def test_hashes_of_the_originals_are_not_those_of_the_pictures_in_a_shard(tmp_path: Path):
    stated = url(0) | {"sha256": "0" * 64}  # of what img2dataset downloaded and made smaller
    tar = img2dataset_shard(tmp_path, [(BODIES[0], "A cat.", stated)])
    assert "hash" not in rows(tar)[0]
    with pytest.raises(ConfigError, match=r"read.hash: .*00000.tar: pictures of a shard are not"):
        rows(tar, hash="sha256")


def test_long_texts_and_texts_that_are_none_cost_their_samples(tmp_path: Path):
    with webdataset.TarWriter(str(tmp_path / "t.tar")) as tar:
        tar.write({"__key__": "x", "png": BODIES[0], "txt": b"A cat."})
        tar.write({"__key__": "y", "png": BODIES[1], "txt": b"\xff"})
        tar.write({"__key__": "z", "png": BODIES[1], "txt": b"A" * 50})
    assert rows(tmp_path / "t.tar", max_bytes=20)[1:] == ["not_utf8", "row_too_large"]
