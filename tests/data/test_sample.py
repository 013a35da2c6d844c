"""The bundled sample holds what its tables say, and enough of it."""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, UnidentifiedImageError

from pipelines.fetching.site import read_content

SAMPLE = Path(__file__).parent / "sample"
MADE = "made by make_sample.py"
Rows = list[dict[str, Any]]


def read_tsv(name: str) -> Rows:
    with (SAMPLE / name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def file_of(url: str) -> Path:
    parts = urlsplit(url)
    return SAMPLE / "www" / parts.netloc / parts.path.lstrip("/")


def size_of(path: Path) -> tuple[int, int]:
    """The size of a picture that decodes to its last pixel."""
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.fixture(scope="module")
def pages() -> Rows:
    return read_tsv("pages.tsv")


@pytest.fixture(scope="module")
def captions() -> Rows:
    rows: Rows = pq.read_table(SAMPLE / "captions.parquet").to_pylist()
    return rows


def faults(captions: Rows) -> dict[str, str]:
    """The captioned URLs that are bad, and how."""
    bad = (row for row in captions if row["source"].startswith(MADE))
    return {row["url"]: row["source"].removeprefix(f"{MADE}: ") for row in bad}


def test_it_is_small_enough_to_commit() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 15_000_000


def test_urls_are_unique_and_their_hosts_reserved(pages: Rows) -> None:
    urls = [row["url"] for row in pages]
    assert len(set(urls)) == len(urls)
    assert all(urlsplit(url).netloc.endswith(".mixwright.example") for url in urls)


def test_there_are_150_pages_with_pictures(pages: Rows) -> None:
    clean = [row for row in pages if row["kind"] == "interleaved" and not row["dirt"]]
    assert len(clean) >= 150
    for row in clean:
        links = re.findall(r"<img\b[^>]*?\bsrc=[\"']([^\"']+)", file_of(row["url"]).read_text())
        files = {file_of(urljoin(row["url"], link)) for link in links}
        assert any(min(size_of(file)) >= 100 for file in files if file.is_file()), row["url"]


def test_there_are_300_pages_of_english_prose(pages: Rows) -> None:
    clean = [row for row in pages if row["kind"] == "text" and not row["dirt"]]
    words = [len(re.sub(r"<[^>]+>", " ", file_of(r["url"]).read_text()).split()) for r in clean]
    assert {row["language"] for row in clean} == {"en"}
    assert sum(count >= 100 for count in words) >= 300


def test_there_are_600_captioned_pictures(captions: Rows) -> None:
    bad = faults(captions)
    good = {row["url"]: row["caption"] for row in captions if row["url"] not in bad}
    assert len(good) >= 600
    assert all(good.values())
    assert all(min(size_of(file_of(url))) >= 100 for url in good)


def test_pages_have_every_kind_of_dirt(pages: Rows) -> None:
    dirt = Counter(row["dirt"] for row in pages)
    assert dirt["exact duplicate on a mirror"] >= 30
    assert dirt["near-duplicate: some words edited"] >= 10
    assert dirt["near-duplicate (as shipped): LLVM 14's page"] >= 10
    assert dirt["mail and IP addresses added"] == 8
    assert {row["language"] for row in pages} >= {"en", "de", "fr", "ru", "ja", "es", "zh"}
    assert sum(bool(row["dirt"]) and row["kind"] == "text" for row in pages) >= 100


def test_duplicates_are_duplicates(pages: Rows) -> None:
    bodies = {row["url"]: file_of(row["url"]) for row in pages if not row["dirt"]}
    clean = {path.read_bytes() for path in bodies.values()}
    assert len(clean) == len(bodies)
    for row in pages:
        if row["dirt"] == "exact duplicate on a mirror":
            assert file_of(row["url"]).read_bytes() in clean
        if row["dirt"].startswith("near-duplicate: "):
            assert file_of(row["url"]).read_bytes() not in clean


@pytest.mark.parametrize("fault", ["truncated file", "HTML as a picture", "zero bytes"])
def test_broken_pictures_do_not_decode(captions: Rows, fault: str) -> None:
    broken = [url for url, found in faults(captions).items() if found == fault]
    assert len(broken) >= 5
    for url in broken:
        with pytest.raises((UnidentifiedImageError, OSError, SyntaxError)):
            size_of(file_of(url))


def test_bodies_are_cut_before_they_end() -> None:
    rules = read_content(SAMPLE).rules
    cut = {path: rule.truncate for path, rule in rules.items() if rule.truncate is not None}
    assert len(cut) == 6
    assert all(size < file_of(f"http://{path}").stat().st_size for path, size in cut.items())


def test_redirects_of_the_sample_lead_to_its_pictures() -> None:
    rules = yaml.safe_load((SAMPLE / "site.yaml").read_text())
    moved = [rule["location"] for path, rule in rules.items() if "/old/" in path]
    assert len(moved) == 10
    assert all(file_of(url).is_file() for url in moved)


def test_sixty_captions_belong_to_other_pictures(captions: Rows) -> None:
    bad = faults(captions)
    assert sum(fault == "mismatched caption" for fault in bad.values()) == 60


def test_robots_txt_refuses_pictures(captions: Rows) -> None:
    refused = [url for url, fault in faults(captions).items() if fault == "by robots"]
    assert len(refused) == 20
    assert all("/private/" in url and file_of(url).is_file() for url in refused)
    robots = SAMPLE / "www" / "stamps.mixwright.example" / "robots.txt"
    assert "Disallow: /private/" in robots.read_text()


def test_every_file_has_a_licence() -> None:
    covered = [row["path"] for row in read_tsv("LICENCES.tsv")]
    files = (path.relative_to(SAMPLE).as_posix() for path in SAMPLE.rglob("*") if path.is_file())
    exact = {path for path in covered if not path.endswith("/")}
    folders = tuple(path for path in covered if path.endswith("/"))
    assert [name for name in files if name not in exact and not name.startswith(folders)] == []


def test_every_licence_covers_a_file() -> None:
    assert all((SAMPLE / row["path"]).exists() for row in read_tsv("LICENCES.tsv"))
