"""The demo's steps: the sample is crawled once, and the summary says what the ledger says."""

import csv
from pathlib import Path

import pytest

from configs.reading import ConfigError
from pipelines import demo
from pipelines.config.recipe import Recipe, load_recipe
from shards import ledger
from shards.loader import open_shards
from tests.pipelines.small import CONFIGS, SAMPLE


@pytest.fixture
def little_sample(tmp_path: Path) -> Path:
    """The sample's site and table with three pages of each kind."""
    folder = tmp_path / "sample"
    folder.mkdir()
    for name in ("www", "site.yaml", "captions.parquet"):
        (folder / name).symlink_to(SAMPLE / name)
    with (SAMPLE / "pages.tsv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, delimiter="\t")
    kinds = ("interleaved", "text")
    chosen = [row for kind in kinds for row in [r for r in rows if r[1] == kind][:3]]
    with (folder / "pages.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([header, *chosen])
    return folder


def test_the_sample_is_crawled_once(little_sample: Path, tmp_path: Path):
    recipe = load_recipe(CONFIGS / "demo.yaml", [f"out={tmp_path / 'run'}"])
    told: list[tuple[str, int, int]] = []

    def progress(what: str, total: int, done: int) -> None:
        told.append((what, total, done))

    with demo.served(recipe, little_sample) as connected:
        assert connected.download.connect_to.keys() == {demo.HOSTS}
        demo.prepare(connected, little_sample, progress)
        assert told == [
            (f"crawl {kind}", 3, i) for kind in ("interleaved", "text") for i in (1, 2, 3)
        ]
        files = {f: f.stat().st_mtime_ns for f in (tmp_path / "run").rglob("*") if f.is_file()}
        told.clear()
        demo.prepare(connected, little_sample, progress)
    assert told == []
    assert {f: f.stat().st_mtime_ns for f in files} == files
    names = sorted(f.relative_to(tmp_path / "run" / "input").as_posix() for f in files)
    assert names == [
        "captions.parquet",
        *(f"{kind}/pages-0000{i}.warc.gz" for kind in ("interleaved", "text") for i in range(4)),
    ]


def test_a_crawl_that_was_cut_off_is_made_again(little_sample: Path, tmp_path: Path):
    recipe = load_recipe(CONFIGS / "demo.yaml", [f"out={tmp_path / 'run'}"])
    told: list[str] = []
    with demo.served(recipe, little_sample) as connected:
        for _ in range(2):
            demo.prepare(connected, little_sample, lambda what, total, done: told.append(what))
            (tmp_path / "run" / "input" / "captions.parquet").unlink()
    assert len(told) == 12


def test_a_folder_that_is_not_the_sample(tmp_path: Path):
    recipe = load_recipe(CONFIGS / "demo.yaml")
    with (
        pytest.raises(ConfigError, match=r"not the sample \(no pages.tsv\)"),
        demo.served(recipe, tmp_path),
    ):
        pass


def test_the_summary_says_what_the_ledger_says(small_run: Recipe):
    lines = demo.summary(small_run.out, (9.125, 8.5), Path("report.html"))
    funnels = {line.split()[0]: line.split(maxsplit=3) for line in lines[2:5]}
    for corpus, (first, last) in {
        "captions": ("read", "filter_images-2"),
        "interleaved": ("extract", "filter_images-2"),
        "text": ("extract", "dedupe"),
    }.items():
        read_first, read_last = (
            ledger.read_counts(ledger.current(small_run.out / corpus / name))
            for name in (first, last)
        )
        _, read, kept, reasons = funnels[corpus]
        assert int(read) == read_first.read["document"]
        assert int(kept) == read_last.kept["document"]
        # All that is not kept is there by reason, the last of them together.
        lost = sum(int(reason.split()[1]) for reason in reasons.split(", "))
        assert lost == int(read) - int(kept)

    manifest = open_shards(small_run.out / "shards").manifest
    for line in lines[6:9]:
        corpus, _, asked, _, got, count, _, tokens, _, images, _ = line.split()
        sums = manifest["corpora"][corpus]
        assert float(asked[:-1]) == manifest["weights"][corpus]
        assert float(got[:-1]) == round(100 * sums["sequences"] / manifest["sequences"], 2)
        found = [int(number.replace(",", "")) for number in (count, tokens, images)]
        assert found == [sums["sequences"], sums["tokens"], sums["images"]]
    assert lines[9].startswith(f"shards         {len(manifest['shards'])} of ")
    assert lines[9].endswith(f"{manifest['stopped_by']} ran out first")
    assert lines[10:] == ["held-out loss  9.12 → 8.50 nats a token", "report         report.html"]


def test_without_training_there_is_no_loss(small_run: Recipe):
    lines = demo.summary(small_run.out, None, Path("report.html"))
    assert not [line for line in lines if "loss" in line]
