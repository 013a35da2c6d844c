"""Batches of URLs: how they are cut, and that what is stored depends on the answers alone."""

import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.fetching import batches
from pipelines.fetching.batches import Target, chains, fetch_partition, host_of, in_order
from pipelines.fetching.fetch import FetchOptions
from shards.images import Resize, read_images
from shards.storage import read_table
from tests.pipelines.fetching.web import Handler, Web, respond, serving


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


def png(number: int, side: int = 16) -> bytes:
    """A picture of its own for each number."""
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


def target(web: Web, folder: Path, **changed: object) -> Target:
    options = FetchOptions(
        per_host_rate=10_000,
        backoff_seconds=0.001,
        total_seconds=60,
        connect_to={"*.test": f"127.0.0.1:{web.port}"},
    )
    return replace(Target(folder, "host-00000", options, None, 2**30), **changed)  # type: ignore[arg-type]


def fetch(urls: Sequence[str], to: Target, most: int = 100) -> pa.Table:
    """The rows of the index after a partition of `urls` was fetched."""
    unique = pa.array(sorted(urls))
    order, hosts = in_order(unique)
    cut = chains(hosts, most)
    fetch_partition(unique.take(pa.array(order)), cut, to, lambda done: None)
    return pa.concat_tables(
        read_table(to.index(number)) for number in range(sum(len(chain) for chain in cut))
    )


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "store").iterdir()}


# --- how batches are cut


@given(st.lists(st.integers(0, 6), max_size=60), st.integers(1, 12))
def test_batches_cover_all_urls_and_split_only_hosts_that_are_too_large(
    numbers: list[int], most: int
) -> None:
    hosts = np.array(sorted(numbers), np.uint64)
    cut = chains(hosts, most)
    flat = [batch for chain in cut for batch in chain]
    assert [i for batch in flat for i in range(batch.start, batch.stop)] == list(range(len(hosts)))
    assert all(0 < batch.stop - batch.start <= most for batch in flat)
    for chain in cut:
        assert len(chain) == 1 or len({*hosts[chain[0].start : chain[-1].stop].tolist()}) == 1
    for before, after in pairwise(cut):
        assert hosts[before[-1].stop - 1] != hosts[after[0].start], "chains share no host"


def test_urls_are_in_the_order_of_hashes_host_by_host() -> None:
    urls = pa.array([f"http://{host}.test/{k}" for host in "abc" for k in range(9)])
    order, hosts = in_order(urls)
    named = [host_of(url) for url in urls.take(pa.array(order)).to_pylist()]
    assert sorted({*named}, key=named.index) == [named[0], named[9], named[18]]
    assert (np.diff(hosts.astype(object)) >= 0).all()
    again, _ = in_order(urls.take(pa.array(range(26, -1, -1))))
    assert (26 - again == order).all(), "whatever the order they came in"


# --- what is stored


def test_tars_are_equal_to_the_byte_whatever_the_timing(web: Web, tmp_path: Path) -> None:
    bodies = [png(k) for k in range(24)]
    delays = np.random.default_rng(1)

    def answer(k: int) -> Callable[[Handler], None]:
        def send(handler: Handler) -> None:
            respond(200, bodies[k], wait=float(delays.uniform(0, 0.05)))(handler)

        return send

    web.answers |= {f"/{k}": answer(k) for k in range(24)}
    urls = [f"http://h{k % 5}.test/{k}" for k in range(24)] + ["http://h0.test/gone"]
    first = fetch(urls, target(web, tmp_path / "a"))
    second = fetch(urls, target(web, tmp_path / "b"))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert first.equals(second)
    assert first["reason"].to_pylist().count("http_404") == 1
    images = first.filter(first["tar"].is_valid())
    expected = [bodies[int(url.rpartition("/")[2])] for url in images["url"].to_pylist()]
    assert read_images(tmp_path / "a", images) == expected


def test_bytes_of_many_urls_are_decoded_and_stored_once(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.answers |= {f"/{k}": respond(200, png(k % 2)) for k in range(8)}
    decoded: list[int] = []
    inner = batches.stored_image
    monkeypatch.setattr(batches, "stored_image", lambda *given: decoded.append(1) or inner(*given))
    monkeypatch.setattr(batches, "DECODERS", 1)
    found = fetch([f"http://a.test/{k}" for k in range(8)], target(web, tmp_path))
    assert len({*found["offset"].to_pylist()}) == 2
    assert len(decoded) == 2
    [tar] = {*found["tar"].to_pylist()}
    with tarfile.open(tmp_path / tar) as members:
        assert len(members.getnames()) == 2


def test_a_tar_is_begun_when_the_one_before_is_full(web: Web, tmp_path: Path) -> None:
    bodies = {f"/{k}": png(k) for k in range(9)}
    web.answers |= {path: respond(200, body) for path, body in bodies.items()}
    most = 2 * len(bodies["/0"]) + 1
    urls = [f"http://a.test{path}" for path in bodies]
    found = fetch(urls, target(web, tmp_path, tar_bytes=most))
    assert [
        len(found.filter(found["tar"].to_numpy() == tar))
        for tar in dict.fromkeys(found["tar"].to_pylist())
    ] == [3, 3, 3]
    expected = [bodies["/" + url.rpartition("/")[2]] for url in found["url"].to_pylist()]
    assert read_images(tmp_path, found) == expected


def test_images_are_stored_at_the_size_of_the_recipe(web: Web, tmp_path: Path) -> None:
    web.answers["/a"] = respond(200, png(1, side=600))
    found = fetch(["http://a.test/a"], target(web, tmp_path, resize=Resize(378)))
    [body] = read_images(tmp_path, found)
    assert (found["width"].to_pylist(), found["format"].to_pylist()) == ([600], ["jpeg"])
    assert Image.open(io.BytesIO(body)).size == (378, 378)


# --- what goes on when something takes long, breaks, or happens twice


def test_robots_and_connections_last_over_the_batches_of_a_host(web: Web, tmp_path: Path) -> None:
    web.answers |= {f"/{k}": respond(200, png(k)) for k in range(12)}
    fetch([f"http://a.test/{k}" for k in range(12)], target(web, tmp_path), most=3)
    assert web.paths().count("/robots.txt") == 1
    assert len(web.connections) <= 4, "as many as are asked at once"


def test_a_straggler_holds_its_own_batch_alone(web: Web, tmp_path: Path) -> None:
    hold = threading.Event()
    web.answers |= {f"/{k}": respond(200, png(k)) for k in range(20)}
    web.answers["/slow"] = lambda handler: (hold.wait(60), respond(200, png(99))(handler))[1]
    urls = [f"http://h{k}.test/{k}" for k in range(20)] + ["http://slow.test/slow"]
    to = target(web, tmp_path)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(fetch, urls, to, 3)
        deadline = time.monotonic() + 8
        while len([*(tmp_path / "store").glob("*.parquet")]) < 6 and time.monotonic() < deadline:
            time.sleep(0.02)
        written = len([*(tmp_path / "store").glob("*.parquet")])
        asked = {path for path in web.paths() if path != "/robots.txt"}
        hold.set()
        assert done.result()["reason"].to_pylist() == [None] * 21
    assert written == 6, "of seven batches all but one"
    assert len(asked) == 21


def test_a_killed_run_goes_on_after_its_last_batch(web: Web, tmp_path: Path) -> None:
    web.answers |= {f"/{k}": respond(200, png(k)) for k in range(9)}
    urls = [f"http://a.test/{k}" for k in range(9)]
    to = target(web, tmp_path / "once")
    whole = fetch(urls, to, most=3)
    again = target(web, tmp_path / "killed")
    fetch(urls, again, most=3)
    again.index(1).unlink()
    web.asked.clear()
    assert fetch(urls, again, most=3).equals(whole)
    assert len([path for path in web.paths() if path != "/robots.txt"]) == 3
    assert files(tmp_path / "killed") == files(tmp_path / "once")


def test_attempts_that_overlap_never_share_a_tar(web: Web, tmp_path: Path) -> None:
    """The index of either finds its own images, whoever wrote last."""
    web.answers |= {"/a": respond(200, png(1)), "/b": respond(200, png(2))}
    urls = ["http://a.test/a", "http://a.test/b"]
    first = fetch(urls, target(web, tmp_path))
    target(web, tmp_path).index(0).unlink()  # as if it had been written later than it was
    web.answers["/a"] = respond(200, png(3, side=40))
    second = fetch(urls, target(web, tmp_path))
    for found, a in ((first, png(1)), (second, png(3, side=40))):
        expected = {"/a": a, "/b": png(2)}
        bodies = read_images(tmp_path, found)
        assert bodies == [
            expected["/" + url.rpartition("/")[2]] for url in found["url"].to_pylist()
        ]


def test_a_disk_that_fails_ends_the_partition(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left")

    web.answers["/a"] = respond(200, png(1))
    monkeypatch.setattr(batches, "stored_image", full)
    with pytest.raises(ExceptionGroup) as caught:
        fetch(["http://a.test/a"], target(web, tmp_path))
    assert caught.group_contains(OSError, match="no space left")
    assert files_or_none(tmp_path) == []


def files_or_none(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
