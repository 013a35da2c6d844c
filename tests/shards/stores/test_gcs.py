"""GCS, with Google's client, against a server on loopback that misbehaves as it is told."""

import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.api_core import exceptions
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.stores import Store, gcs
from shards.stores.gcs import GcsStore, open_store
from shards.stores.options import GcsOptions
from tests.servers.gcs import Gcs, serve

KIB = 1 << 10
MIB = 1 << 20
DATA = bytes(range(256)) * 1200  # 300 KiB


@pytest.fixture
def server() -> Iterator[Gcs]:
    with serve("b") as running:
        yield running


@pytest.fixture
def store(server: Gcs, monkeypatch: pytest.MonkeyPatch) -> GcsStore:
    """A store that waits for milliseconds where it would wait for seconds."""
    quick = gcs.RETRY.with_delay(initial=0.001, maximum=0.01).with_timeout(5.0)
    monkeypatch.setattr(gcs, "RETRY", quick)
    monkeypatch.setattr(gcs, "CHUNK", 256 * KIB)
    return open_store("b", anonymous(server))


def anonymous(server: Gcs) -> GcsOptions:
    return GcsOptions(endpoint=server.url, project=None, anonymous=True)


def ranges(server: Gcs) -> list[str | None]:
    """The ranges that bodies of objects were asked for, in order."""
    asked = [r for r in server.requests if r.query.get("alt") == "media"]
    return [request.headers.get("range") for request in asked]


def test_an_object_comes_back_as_it_was_put(store: Store) -> None:
    store.put_bytes("a/b.txt", b"hello")
    assert store.get("a/b.txt") == b"hello"
    assert store.get("a/b.txt", 1, 3) == b"ell"
    assert store.get("a/b.txt", 2) == b"llo"
    assert store.get("a/b.txt", 2, 0) == b""
    assert store.size("a/b.txt") == 5


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200), st.text(st.characters(categories=["L", "N", "P"]), min_size=1))
def test_any_bytes_under_any_name(store: GcsStore, data: bytes, name: str) -> None:
    store.put_bytes(f"any/{name}", data)
    assert store.get(f"any/{name}") == data
    assert f"any/{name}" in set(store.keys("any"))


def test_what_is_not_there(store: GcsStore, server: Gcs) -> None:
    with pytest.raises(FileNotFoundError, match="gs://b/none: no such object"):
        store.get("none")
    with pytest.raises(FileNotFoundError, match="gs://b/none"):
        store.size("none")
    with pytest.raises(FileNotFoundError, match="no such bucket"):
        open_store("other", anonymous(server)).put_bytes("k", b"")
    assert store.names("none") == []


@pytest.mark.parametrize(("start", "length"), [(0, 6), (3, 3), (5, 1), (9, 2)])
def test_a_range_beyond_the_end(store: GcsStore, start: int, length: int) -> None:
    store.put_bytes("k", b"hello")
    with pytest.raises(EOFError, match=r"gs://b/k ends before byte"):
        store.get("k", start, length)


def test_a_copy_inside_of_the_store(store: GcsStore) -> None:
    store.put_bytes("a/ä k", b"hello")
    store.copy("a/ä k", "b/ä k")
    assert store.get("b/ä k") == b"hello"
    with pytest.raises(FileNotFoundError, match="gs://b/none"):
        store.copy("none", "k")


def test_another_upload_is_another_version(store: GcsStore) -> None:
    store.put_bytes("k", b"hello")
    before = store.version("k")
    assert store.version("k") == before
    store.put_bytes("k", b"hallo")
    assert store.version("k") != before
    with pytest.raises(FileNotFoundError, match="gs://b/none"):
        store.version("none")


def test_an_empty_object(store: GcsStore, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    store.put("empty", tmp_path / "empty")
    assert store.get("empty") == b"" and store.size("empty") == 0
    with pytest.raises(EOFError):
        store.get("empty", 0, 1)


def test_a_big_file_goes_up_in_chunks(store: GcsStore, server: Gcs, tmp_path: Path) -> None:
    data = DATA * 30  # 9 MB: above what Google's client sends in one request
    (tmp_path / "big").write_bytes(data)
    store.put("big", tmp_path / "big")
    assert server.data("b") == {"big": data}
    puts = [request for request in server.requests if request.method == "PUT"]
    assert {len(put.body) for put in puts[:-1]} == {256 * KIB}
    assert "crc32c=" in puts[-1].headers["x-goog-hash"]


def test_a_big_file_survives_errors_in_its_middle(
    store: GcsStore, server: Gcs, tmp_path: Path
) -> None:
    data = DATA * 30
    (tmp_path / "big").write_bytes(data)
    server.fail(3)
    server.lose(3)
    store.put("big", tmp_path / "big")
    assert server.data("b") == {"big": data}


def test_an_upload_that_fails_leaves_nothing(
    store: GcsStore, server: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "RETRY", gcs.RETRY.with_timeout(0.05))
    (tmp_path / "big").write_bytes(DATA * 30)
    server.put("b", "big", b"before")
    server.fail(1000)
    with pytest.raises(ConnectionError, match=r"gs://b/big: gave up after 0.05 s"):
        store.put("big", tmp_path / "big")
    assert server.data("b") == {"big": b"before"}


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(store: GcsStore, server: Gcs, status: int) -> None:
    for action, answer in [
        (lambda: store.put_bytes("a/k", b"hello"), None),
        (lambda: store.get("a/k"), b"hello"),
        (lambda: store.size("a/k"), 5),
        (lambda: store.names("a"), ["k"]),
        (lambda: list(store.keys("")), ["a/k"]),
        (lambda: store.delete(["a/k"]), None),
    ]:
        server.fail(2, status)
        assert action() == answer
    assert server.data("b") == {}


def test_a_dropped_connection_is_tried_again(store: GcsStore, server: Gcs) -> None:
    server.lose(2)
    store.put_bytes("k", b"hello")
    server.lose(2)
    assert store.get("k") == b"hello"
    server.lose(1)
    store.delete(["k"])  # the object is gone when it is asked for again


def test_a_broken_body_is_continued_where_it_broke(store: GcsStore, server: Gcs) -> None:
    generation = server.put("b", "k", DATA).generation
    server.cut(2, 100 * KIB)
    assert store.get("k") == DATA
    assert ranges(server) == [None, "bytes=102400-", "bytes=204800-"]
    continued = [request.query.get("generation") for request in server.requests]
    assert continued == [None, str(generation), str(generation)]


def test_a_broken_range_is_continued_where_it_broke(store: GcsStore, server: Gcs) -> None:
    server.put("b", "k", DATA)
    server.cut(1, 16 * KIB)
    assert store.get("k", 1000, 50_000) == DATA[1000:51_000]
    assert ranges(server) == ["bytes=1000-50999", "bytes=17384-50999"]


def test_an_object_that_is_replaced_while_it_is_read(
    store: GcsStore, server: Gcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never the head of one generation with the tail of another."""
    server.put("b", "k", DATA)
    server.cut(1, 100 * KIB)
    answer = server.answer

    def replace_then_answer(request):  # type: ignore[no-untyped-def]
        if "range" in request.headers:
            monkeypatch.setattr(server, "answer", answer)
            server.put("b", "k", DATA[::-1])
        return answer(request)

    monkeypatch.setattr(server, "answer", replace_then_answer)
    assert store.get("k") == DATA[::-1]


def test_a_corrupt_body_is_read_again(store: GcsStore, server: Gcs) -> None:
    server.put("b", "k", b"hello")
    server.corrupt(2)
    assert store.get("k") == b"hello"
    assert ranges(server) == [None, None, None]


def test_a_body_that_stays_corrupt(
    store: GcsStore, server: Gcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "RETRY", gcs.RETRY.with_timeout(0.05))
    server.put("b", "k", b"hello")
    server.corrupt(10_000)
    with pytest.raises(ConnectionError, match="its checksum does not match"):
        store.get("k")


def test_folders(store: GcsStore, server: Gcs) -> None:
    for key in ("a", "a/1", "a/b/2", "a/b/3", "a/c", "a/c/4", "ab/5", "a/"):
        server.put("b", key, b"")
    assert store.names("") == ["a", "ab"]
    assert store.names("a") == ["1", "b", "c"]
    assert list(store.keys("a")) == ["a/1", "a/b/2", "a/b/3", "a/c", "a/c/4"]


def test_long_listings_come_by_the_page(store: GcsStore, server: Gcs) -> None:
    keys = [f"parts/{number:04}/x" for number in range(2500)]
    for key in keys:
        server.put("b", key, b"")
    assert store.names("parts") == [f"{number:04}" for number in range(2500)]
    assert len(server.requests) == 3
    assert list(store.keys("parts")) == keys
    store.delete([*keys[:-1], "not/there"])
    assert list(store.keys("")) == keys[-1:]
    assert sum(request.method == "POST" for request in server.requests) == 25


def test_a_batch_repeats_only_what_failed(store: GcsStore, server: Gcs) -> None:
    for key in ("a", "b", "c"):
        server.put("b", key, b"")
    server.fail(1, after=2)  # the batch itself and its first deletion pass
    store.delete(["a", "b", "c"])
    assert server.data("b") == {}
    deleted = [request.path for request in server.requests if request.method == "DELETE"]
    assert [path.rsplit("/", 1)[1] for path in deleted] == ["a", "b", "c", "b"]


@pytest.mark.parametrize("status", [401, 403])
def test_what_a_user_may_not_read(store: GcsStore, server: Gcs, status: int) -> None:
    server.fail(1, status)
    with pytest.raises(PermissionError, match=r"gs://b/k: .*gcloud auth application-default"):
        store.get("k")
    assert len(server.requests) == 1


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # no gcloud
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(PermissionError, match="GOOGLE_APPLICATION_CREDENTIALS"):
        open_store("b", GcsOptions())


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "RETRY", gcs.RETRY.with_delay(0.001).with_timeout(0.05))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = open_store("b", GcsOptions(endpoint=endpoint, anonymous=True))
        with pytest.raises(ConnectionError, match=r"gs://b/k: gave up after"):
            store.get("k")


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs, "RETRY", gcs.RETRY.with_delay(0.001).with_timeout(0.05))
    monkeypatch.setitem(gcs.CALL, "timeout", (1, 0.05))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = open_store("b", GcsOptions(endpoint=endpoint, anonymous=True))
        with pytest.raises(TimeoutError, match=r"gs://b/k: gave up after"):
            store.size("k")


def test_requester_pays(store: GcsStore, server: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    options = GcsOptions(server.url, "our-project", anonymous=True, requester_pays=True)
    paying = open_store("b", options)
    paying.put_bytes("a/k", b"hello")
    paying.get("a/k")
    paying.size("a/k")
    paying.names("a")
    paying.delete(["a/k"])
    payers = [r.query.get("userProject") for r in server.requests if "batch" not in r.path]
    assert payers == ["our-project"] * 5
    store.names("a")
    assert "userProject" not in server.requests[-1].query
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    with pytest.raises(ValueError, match="set `project`"):
        open_store("b", GcsOptions(server.url, requester_pays=True))


def test_an_emulator_by_environment(server: Gcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    open_store("b", GcsOptions()).put_bytes("k", b"hello")
    assert server.data("b") == {"k": b"hello"}
    assert "authorization" not in server.requests[-1].headers


def test_threads_share_a_store(store: GcsStore, server: Gcs) -> None:
    server.put("b", "k", DATA)
    spans = [(start, 4096) for start in range(0, len(DATA), 4096)]
    with ThreadPoolExecutor(16) as pool:
        pieces = list(pool.map(lambda span: store.get("k", *span), spans))
    assert b"".join(pieces) == DATA


def test_what_is_missing_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['google.cloud.storage'] = None; import shards.stores.gcs"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'mixwright[gcs]'" in done.stderr.splitlines()[-1]


def test_errors_travel_between_processes(store: GcsStore) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        store.get("k")
    assert isinstance(caught.value.__cause__, exceptions.NotFound)
    assert "gs://b/k" in str(pickle.loads(pickle.dumps(caught.value)))
