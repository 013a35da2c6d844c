from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import urllib3
from fastwarc.warc import ArchiveIterator as FastWarcIterator
from fastwarc.warc import WarcRecordType
from hypothesis import given
from hypothesis import strategies as st
from warcio.archiveiterator import ArchiveIterator

from pipelines.fetching.crawl import crawl, split
from pipelines.fetching.site import Site, serve

URLS = [f"http://a.example/{n}.html" for n in range(10)]
RULES = """
a.example/3.html: {status: 500}
a.example/4.html: {status: 302, location: /5.html}
a.example/7.html: {truncate: 4}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    folder = root / "www" / "a.example"
    folder.mkdir(parents=True)
    for number in range(9):  # 9.html is missing
        (folder / f"{number}.html").write_text(f"<p>page {number}</p>")
    (root / "site.yaml").write_text(RULES)
    with serve(root) as site:
        yield site


def records(paths: list[Path]) -> dict[str, tuple[str, bytes]]:
    """Status and body of every response, read by warcio with its digests checked."""
    found = {}
    for path in paths:
        with path.open("rb") as file:
            for record in ArchiveIterator(file, check_digests="raise"):
                if record.rec_type == "response":
                    status = record.http_headers.get_statuscode()
                    url = record.rec_headers["WARC-Target-URI"]
                    found[url] = (status, record.content_stream().read())
    return found


def test_every_page_is_recorded_with_its_status(site: Site, tmp_path: Path) -> None:
    paths = crawl(URLS, {"*.example": site.address}, tmp_path, warcs=3)
    found = records(paths)
    assert sorted(found) == URLS
    assert found[URLS[0]] == ("200", b"<p>page 0</p>")
    assert found[URLS[3]][0] == "500"
    assert found[URLS[4]][0] == "302"
    assert found[URLS[9]] == ("404", b"")


def test_a_body_cut_short_is_kept_and_marked(site: Site, tmp_path: Path) -> None:
    (path,) = crawl([URLS[7]], {"*.example": site.address}, tmp_path, warcs=1)
    assert records([path])[URLS[7]] == ("200", b"<p>p")
    with path.open("rb") as file:
        *_, record = ArchiveIterator(file)
    assert record.rec_headers["WARC-Truncated"] == "disconnect"


def test_a_crawl_repeats_to_the_byte(site: Site, tmp_path: Path) -> None:
    connect_to = {"*.example": site.address}
    first = crawl(URLS, connect_to, tmp_path / "first", warcs=2)
    second = crawl(URLS, connect_to, tmp_path / "second", warcs=2)
    assert [path.name for path in first] == ["pages-00000.warc.gz", "pages-00001.warc.gz"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_bytes_do_not_depend_on_the_port(site: Site, tmp_path: Path) -> None:
    (path,) = crawl(URLS, {"*.example": site.address}, tmp_path, warcs=1)
    with path.open("rb") as file:
        heads = [str(record.rec_headers) for record in ArchiveIterator(file)]
    assert heads and not any(str(site.port) in head for head in heads)


def test_the_file_begins_with_a_warcinfo_and_fastwarc_reads_it(site: Site, tmp_path: Path) -> None:
    (path,) = crawl(pa.table({"url": URLS}), {"*.example": site.address}, tmp_path, warcs=1)
    types, dates = [], set()
    with path.open("rb") as file:
        for record in FastWarcIterator(file, parse_http=False):
            types.append(record.record_type)
            dates.add(record.headers["WARC-Date"])
            assert record.verify_block_digest()
    assert types == [WarcRecordType.warcinfo] + [WarcRecordType.response] * 10
    assert dates == {"2024-01-01T00:00:00Z"}


def test_progress_counts_pages(site: Site, tmp_path: Path) -> None:
    counts: list[int] = []
    crawl(URLS, {"*.example": site.address}, tmp_path, warcs=3, progress=counts.append)
    assert counts == list(range(1, 11))


def test_a_crawl_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(urllib3.exceptions.HTTPError):
        crawl(URLS, {"*.example": "127.0.0.1:1"}, tmp_path, warcs=1)
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.text(max_size=4)), st.integers(1, 5))
def test_split_is_even_complete_and_in_order(urls: list[str], parts: int) -> None:
    pages = split(urls, parts)
    sizes = [len(part) for part in pages]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(url for part in pages for url in part) == sorted(set(urls))
    assert all(part == sorted(part, key=urls.index) for part in pages)
    assert [sorted(part) for part in split(urls[::-1], parts)] == [sorted(p) for p in pages]
