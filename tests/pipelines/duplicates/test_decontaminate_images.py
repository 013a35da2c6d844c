"""The step that looks for pictures of evaluation sets: what it reads, takes out and reports."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from configs.reading import ConfigError
from filters.looks import Limits, looks
from pipelines.config.corpora import Captions
from pipelines.config.steps import DecontaminateImages
from pipelines.duplicates import decontaminate_images
from pipelines.duplicates.decontaminate_images import (
    KNOWN,
    decontaminate_images_stage,
    evaluation_files,
    evaluation_rows,
)
from pipelines.stage import Place
from shards import ledger, schema
from shards.images import inspect_image, open_image
from shards.storage import read_table, write_table
from shards.stores.options import StorageOptions
from tests.pipelines.by_hand import kept, run_stage, source, write_stage
from tests.pipelines.small import SAMPLE

WALLPAPERS = SAMPLE / "www" / "stamps.mixwright.example" / "wallpapers"
BODIES = [path.read_bytes() for path in sorted(WALLPAPERS.glob("*.jpg"))[:5]]


def saved(picture: Image.Image, kind: str = "JPEG", **options: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def smaller(body: bytes) -> bytes:
    picture = open_image(body)
    return saved(picture.resize((picture.width // 2, picture.height // 2)), quality=60)


SHOWN = [BODIES[0], smaller(BODIES[1]), BODIES[2], smaller(BODIES[3])]


def page(*numbers: int) -> dict[str, Any]:
    images = [schema.image_part(f"http://a.example/{i}", sha256=str(i)) for i in numbers]
    return schema.document("web", f"http://a.example/{numbers}", [schema.text_part("a"), *images])


def run(folder: Path, files: list[str], **options: Any) -> Place:
    """Pages of pictures 0 and 2, of 1 and 2, and of 3 alone, in two parts."""
    parts = [[page(0, 2), page(1, 2)], [page(3)]]
    inputs = [write_stage(folder / "in", [schema.documents(part) for part in parts])]
    for number in range(2):
        rows = [{"url": f"http://a.example/{i}", **inspect_image(b)} for i, b in enumerate(SHOWN)]
        table = pa.Table.from_pylist(rows, schema=schema.IMAGE)
        write_table(folder / "download" / "index" / f"{ledger.part_name(number)}.parquet", table)
    asked = DecontaminateImages(files=files, **options)
    stages = source("web/in"), source("web/download")
    stage = decontaminate_images_stage("web/x", *stages, asked, StorageOptions())
    return run_stage(stage, folder / "x", inputs, [folder / "download"])


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Pictures 0 and 1 in a folder, 3 in a table; what is no picture is passed over."""
    folder = tmp_path / "eval"
    (folder / "vqa").mkdir(parents=True)
    (folder / "vqa" / "zero.jpg").write_bytes(BODIES[0])
    (folder / "vqa" / "one.jpg").write_bytes(BODIES[1])
    (folder / "vqa" / "readme.txt").write_text("About the pictures.")
    image = pa.array([{"bytes": BODIES[4], "path": "4.jpg"}, {"bytes": BODIES[3], "path": "3.jpg"}])
    pq.write_table(pa.table({"image": image, "label": ["a", "b"]}), folder / "test.parquet")
    return folder


def test_pictures_of_evaluation_sets_go_and_are_named(sets: Path, tmp_path: Path):
    place = run(tmp_path, [str(sets)])
    assert list(map(len, kept(place))) == [2, 0]
    counts = ledger.read_counts(place.out)
    assert counts.kept == {"document": 2, "image": 2}
    assert counts.dropped == {
        "document": {"image_contaminated": 1},
        "image": {"image_contaminated": 3},
    }
    rows = ledger.read_drops(place.out).to_pylist()
    details = {row["image"]: row["detail"] for row in rows if row["unit"] == "image"}
    assert details["0"] == "vqa/zero.jpg: the same bytes"
    assert details["1"].startswith("vqa/one.jpg: ")
    assert details["1"].endswith(" of 64 bits apart")
    assert details["3"].startswith("test.parquet, image of row 1: ")


def test_at_no_distance_only_what_hashes_alike_goes(sets: Path, tmp_path: Path):
    place = run(tmp_path, [str(sets / "vqa" / "*.jpg")], distance=0)
    rows = ledger.read_drops(place.out).to_pylist()
    assert "0" in {row["image"] for row in rows}
    assert "3" not in {row["image"] for row in rows}


def test_of_several_pictures_the_nearest_is_named():
    """Of equally near ones the first by name."""
    seen = {"width": 9, "height": 9, "contrast": 50.0, "uniformity": 0.2, "tint": "80" * 8}
    hashes = {"a": 0b1111, "b": 0b11, "c": 0b101, "d": 0b111111111}
    rows = [
        {"url": name, "phash": f"{0xF0 << 32 | bits:016x}", **seen} for name, bits in hashes.items()
    ]
    table = pa.Table.from_pylist(rows, schema=schema.IMAGE)
    known = pa.table([table["url"], table["sha256"], *looks(table).columns], schema=KNOWN)
    asked = [{"url": "x", "phash": f"{0xF0 << 32:016x}", **seen}]
    shown = pa.Table.from_pylist(asked, schema=schema.IMAGE)
    assert decontaminate_images._near(shown, known, Limits()) == {0: "b: 2 of 64 bits apart"}


def test_only_reported_pictures_stay(sets: Path, tmp_path: Path):
    place = run(tmp_path, [str(sets)], report_only=True)
    assert list(map(len, kept(place))) == [2, 1]
    rows = ledger.read_drops(place.out).to_pylist()
    assert [(row["unit"], row["kind"]) for row in rows] == [("image", "reported")] * 3
    counts = ledger.read_counts(place.out)
    assert counts.read == counts.kept == {"document": 3, "image": 5}


def test_sets_of_many_files_are_hashed_in_tasks_that_are_done_once(
    sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decontaminate_images, "FILES", 1)
    place = run(tmp_path, [str(sets)])
    tables = sorted((place.out / "evaluation").iterdir())
    assert [read_table(table).num_rows for table in tables] == [2, 1, 1]
    named = (("a", sets / "vqa" / "zero.jpg"),) * 3
    assert decontaminate_images.next_job(place, named) is None
    tables[1].unlink()
    assert decontaminate_images.next_job(place, named).keywords["left"] == [1]


def test_a_tar_has_pictures_as_members(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i, body in enumerate(BODIES[:2]):
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    rows = list(evaluation_rows("coco/a.tar", tmp_path / "a.tar"))
    assert [row["url"] for row in rows] == ["coco/a.tar/0.jpg", "coco/a.tar/1.jpg"]
    assert [row["sha256"] for row in rows] == [inspect_image(b)["sha256"] for b in BODIES[:2]]


def test_what_cannot_be_looked_for_is_named(tmp_path: Path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(BODIES[0][:500])
    with pytest.raises(ValueError, match=r"broken.jpg is no picture that can be read"):
        list(evaluation_rows("broken.jpg", broken))
    pq.write_table(pa.table({"label": ["a"]}), tmp_path / "labels.parquet")
    with pytest.raises(ValueError, match=r"labels.parquet has no column of bytes"):
        list(evaluation_rows("x", tmp_path / "labels.parquet"))
    (tmp_path / "notes.txt").write_text("")
    for pattern, message in (
        (f"{tmp_path}/*.txt", "notes.txt has none of the suffixes"),
        (f"{tmp_path}/*.gif", "no file matches"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluation_files(pattern, StorageOptions())
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is in"):
        evaluation_files(str(tmp_path / "empty"), StorageOptions())


def test_there_have_to_be_pictures_to_look_among():
    steps = [{"decontaminate_images": {"files": ["eval"]}}, "download"]
    with pytest.raises(ValueError, match="needs a step download before it"):
        Captions.model_validate({"read": {"files": ["x.parquet"]}, "steps": steps})
