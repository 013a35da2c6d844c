"""The step nsfw: a score for every picture of a part, and filters that decide on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.reading import ConfigError
from filters.nsfw import nsfw_scores
from pipelines.config.rules import FilterSpec
from pipelines.images import image_filter_stage
from pipelines.scores import nsfw
from pipelines.scores.nsfw import nsfw_stage
from shards import ledger, schema
from shards.images import store_images
from shards.storage import read_table, write_table
from tests.pipelines.by_hand import run_stage, source, write_stage
from tests.shards.variants import SAMPLE, photo

PHOTO, COPY, EMOJI = (f"http://a.example/{name}" for name in ("photo.jpg", "copy.jpg", "emoji.png"))
FILE = sorted(SAMPLE.rglob("noto-*.png"))[0]


def page(*urls: str) -> dict[str, Any]:
    parts = [schema.text_part("A"), *map(schema.image_part, urls)]
    return schema.document("web", f"http://a.example/{'-'.join(urls)}", parts)


PARTS = [
    schema.documents([page(PHOTO, EMOJI), page(COPY, PHOTO)]),
    schema.documents([]),
    schema.documents([schema.document("web", "u", [schema.text_part("no picture")])]),
]


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, Path]:
    """The folders of three parts of documents and of the download of their images."""
    fetched = tmp_path / "download"
    encoded = (SAMPLE / "docs.mixwright.example/freedombox/images/pine64-plus.jpg").read_bytes()
    replies = [(PHOTO, encoded, None), (COPY, encoded, None), (EMOJI, FILE.read_bytes(), None)]
    index = store_images(replies, fetched / "store" / "a.tar", "store/a.tar")
    for part in range(len(PARTS)):
        write_table(fetched / "index" / f"{ledger.part_name(part)}.parquet", index)
    return write_stage(tmp_path / "dedupe", PARTS), fetched


def score(tmp_path: Path, given: tuple[Path, Path]) -> Any:
    stage = nsfw_stage("web/nsfw", source("web/dedupe"), source("web/download"))
    return run_stage(stage, tmp_path / "nsfw", given[:1], given[1:])


def scores(folder: Path, part: int) -> dict[str, float]:
    table = read_table(folder / "scores" / f"{ledger.part_name(part)}.parquet")
    assert table.schema == schema.NSFW
    return dict(zip(table["url"].to_pylist(), table["nsfw"].to_pylist(), strict=True))


def test_every_picture_has_the_detectors_score(tmp_path: Path, given: tuple[Path, Path]) -> None:
    place = score(tmp_path, given)
    emoji = Image.open(FILE).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", emoji.size, "white"), emoji)
    expected = nsfw_scores([photo(), photo(), on_white.convert("RGB")])
    assert scores(place.out, 0) == pytest.approx(
        dict(zip((PHOTO, COPY, EMOJI), expected.tolist(), strict=True)), abs=1e-4
    )
    assert scores(place.out, 1) == scores(place.out, 2) == {}
    for part, documents in enumerate(PARTS):
        name = f"{ledger.part_name(part)}.parquet"
        assert read_table(place.out / "documents" / name).equals(documents)


def test_equal_pictures_are_scored_once(
    tmp_path: Path, given: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def counting(pictures: list[Image.Image]) -> np.ndarray:
        batches.append(len(pictures))
        return nsfw_scores(pictures)

    monkeypatch.setattr(nsfw, "nsfw_scores", counting)
    score(tmp_path, given)
    assert batches == [2]


def test_a_later_filter_decides_on_the_scores(tmp_path: Path, given: tuple[Path, Path]) -> None:
    scored = score(tmp_path, given).out
    found = scores(scored, 0)
    assert found[PHOTO] != found[EMOJI]
    between = (found[PHOTO] + found[EMOJI]) / 2
    higher = [PHOTO, COPY] if found[PHOTO] > between else [EMOJI]
    stage = image_filter_stage(
        "web/filter_images",
        source("web/nsfw"),
        source("web/download"),
        [FilterSpec(name="image_nsfw", thresholds={"max": between})],
        [source("web/nsfw")],
    )
    assert stage.lookups == ("web/download", "web/nsfw")
    place = run_stage(stage, tmp_path / "f", [scored], [given[1], scored])
    kept = read_table(place.out / "documents" / f"{ledger.part_name(0)}.parquet")
    urls = [part["url"] for row in kept["parts"].to_pylist() for part in row if part["url"]]
    shown = [PHOTO, EMOJI, COPY, PHOTO]
    assert urls == [url for url in shown if url not in higher]
    dropped = sum(url in higher for url in shown)
    assert ledger.read_counts(place.out).dropped["image"] == {"image_nsfw": dropped}


def test_a_machine_without_the_detector_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nsfw, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"corpora\.web\.steps: .*pip install 'mixwright\[nsfw\]"):
        nsfw_stage("web/nsfw", source("web/dedupe"), source("web/download"))
