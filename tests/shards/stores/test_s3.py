"""The S3 store against a server that speaks the protocol, and breaks it when asked to."""

import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from shards.stores import s3
from shards.stores.options import S3Options
from shards.stores.s3 import S3Store, open_store
from tests.servers.s3 import S3Server, control, serve

MEGABYTE = random.Random(4).randbytes(1 << 20)


@pytest.fixture(scope="module")
def served() -> Iterator[S3Server]:
    with serve() as server:
        yield server


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr(s3, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(s3, "LONGEST_PAUSE", 0.1)


@pytest.fixture
def server(served: S3Server) -> S3Server:
    served.clear()
    return served


@pytest.fixture
def bucket(server: S3Server) -> str:
    name = f"bucket-{uuid.uuid4().hex}"
    server.client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def store(server: S3Server, bucket: str) -> S3Store:
    return open_store(bucket, S3Options(endpoint=server.endpoint))


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Goes up in three parts."""
    path = tmp_path_factory.mktemp("long") / "file"
    path.write_bytes(MEGABYTE * 17)
    return path


def fill(bucket: str, keys: list[str]) -> None:
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for key in keys:
        backend.put_object(bucket, key, b"x")


def uploads(server: S3Server, bucket: str) -> list[object]:
    return server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])


# Without faults


def test_what_was_put_comes_back(store: S3Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file")
    store.put("a/file", tmp_path / "file")
    store.put_bytes("a/bytes +%ä", b"from memory")
    store.put_bytes("a/empty", b"")
    assert store.get("a/file") == b"from a file"
    assert store.get("a/bytes +%ä") == b"from memory"
    assert store.get("a/empty") == b""
    assert store.size("a/file") == 11
    assert store.names("a") == ["bytes +%ä", "empty", "file"]


def test_a_copy_inside_of_the_store(store: S3Store) -> None:
    store.put_bytes("a/bytes +%ä", b"from memory")
    store.copy("a/bytes +%ä", "b/copy +%ä")
    assert store.get("b/copy +%ä") == b"from memory"
    with pytest.raises(FileNotFoundError, match="a/none: there is no such object"):
        store.copy("a/none", "b/none")


def test_ranges(store: S3Store) -> None:
    store.put_bytes("k", b"0123456789")
    assert store.get("k", 3, 4) == b"3456"
    assert store.get("k", 3) == b"3456789"
    assert store.get("k", 0, 10) == b"0123456789"
    assert store.get("k", 10) == store.get("k", 10, 0) == store.get("k", 0, 0) == b""


@pytest.mark.parametrize(("start", "length"), [(3, 8), (10, 1), (20, 5), (11, None), (11, 0)])
def test_a_range_must_lie_in_the_object(store: S3Store, start: int, length: int | None) -> None:
    store.put_bytes("k", b"0123456789")
    with pytest.raises(EOFError, match=r"s3://bucket-\w+/k ends before byte"):
        store.get("k", start, length)


def test_a_long_file_goes_up_in_parts(
    server: S3Server, store: S3Store, long_file: Path, bucket: str
) -> None:
    store.put("long", long_file)
    parts = [request for request in server.requests if "partNumber" in request.query]
    assert sorted(int(part.headers["content-length"]) >> 20 for part in parts) == [1, 8, 8]
    assert store.get("long") == long_file.read_bytes()
    assert uploads(server, bucket) == []


def test_names_and_keys_below_a_folder(store: S3Store) -> None:
    for key in ("f/b", "f/a", "f/c/2", "f/c/1", "f-not/x", "top", "f/marked/", "f/"):
        store.put_bytes(key, b"")
    assert store.names("f") == ["a", "b", "c", "marked"]
    assert store.names("") == ["f", "f-not", "top"]
    assert list(store.keys("f")) == ["f/a", "f/b", "f/c/1", "f/c/2"]
    assert list(store.keys("")) == ["f-not/x", "f/a", "f/b", "f/c/1", "f/c/2", "top"]
    assert store.names("nothing") == list(store.keys("nothing")) == []


def test_more_keys_than_a_page_holds(server: S3Server, store: S3Store, bucket: str) -> None:
    keys = [f"many/{number:04}" for number in range(1005)]
    fill(bucket, keys)
    assert list(store.keys("many")) == keys
    assert store.names("many") == [key.removeprefix("many/") for key in keys]
    server.clear()
    store.delete([*keys[1:], "never/there"])
    assert [request.method for request in server.requests] == ["POST", "POST"]
    assert list(store.keys("")) == keys[:1]


def test_one_store_serves_many_threads(server: S3Server, store: S3Store) -> None:
    server.fault("error", count=20)
    server.fault("drop", method="GET", count=20, after=2)
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda n: store.put_bytes(f"{n}", b"%d" % n * 9), range(64)))
        got = list(pool.map(lambda n: store.get(f"{n}"), range(64)))
    assert got == [b"%d" % n * 9 for n in range(64)]


# Faults while reading


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error"},
        {"kind": "error", "status": 500, "code": "InternalError"},
        {"kind": "error", "status": 429, "code": "TooManyRequests"},
        {"kind": "lose"},
    ],
    ids=str,
)
def test_a_request_without_an_answer_is_repeated(
    server: S3Server, store: S3Store, fault: dict[str, object]
) -> None:
    store.put_bytes("a/k", b"x")
    server.clear()
    server.fault(**fault, count=3)
    assert store.get("a/k") == b"x"
    server.fault(**fault, count=3)
    assert store.size("a/k") == 1
    server.fault(**fault, count=3)
    assert store.names("a") == ["k"]
    server.fault(**fault, count=3)
    store.delete(["a/k"])
    assert list(store.keys("")) == []
    assert len(server.requests) == 4 * 4 + 1


@pytest.mark.parametrize("kind", ["drop", "truncate", "slow"])
def test_a_body_is_resumed_where_it_broke(
    server: S3Server, store: S3Store, bucket: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "READ_TIMEOUT", 0.3)
    store = open_store(bucket, S3Options(endpoint=server.endpoint))
    store.put_bytes("k", MEGABYTE)
    server.clear()
    server.fault(kind, method="GET", count=2, after=300_000)
    assert store.get("k") == MEGABYTE
    first, second, third = server.requests
    assert "range" not in first.headers
    starts = [int(request.headers["range"][6:].split("-")[0]) for request in (second, third)]
    assert 256 << 10 <= starts[0] <= 300_000 and 512 << 10 <= starts[1] <= 600_000
    assert "if-match" in second.headers and "if-match" in third.headers

    server.fault(kind, method="GET", count=1, after=300_000)
    assert store.get("k", 1000, 500_000) == MEGABYTE[1000:501_000]


def test_a_slow_body_is_waited_for(server: S3Server, store: S3Store) -> None:
    store.put_bytes("k", MEGABYTE)
    server.clear()
    server.fault("slow", method="GET", after=1000, seconds=0.3)
    assert store.get("k") == MEGABYTE
    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", ["drop", "truncate"])
def test_a_broken_list_is_asked_for_again(server: S3Server, store: S3Store, kind: str) -> None:
    store.put_bytes("a/k", b"x")
    server.fault(kind, method="GET", count=2, after=50)
    assert store.names("a") == ["k"]


def test_an_object_that_changes_is_read_from_its_beginning(
    server: S3Server, store: S3Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_bytes("k", MEGABYTE)
    changed = MEGABYTE[::-1]

    def change(*_: object) -> None:
        server.client.put_object(Bucket=bucket, Key="k", Body=changed)

    monkeypatch.setattr(s3._Patience, "wait", change)
    server.fault("truncate", method="GET", after=600_000)
    assert store.get("k") == changed


# Faults while writing


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error"},
        {"kind": "error", "status": 400, "code": "RequestTimeout"},
        {"kind": "drop", "after": 1000},
        {"kind": "lose"},
    ],
    ids=str,
)
def test_a_broken_put_is_repeated(
    server: S3Server, store: S3Store, fault: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(MEGABYTE)
    for put in (
        lambda: store.put_bytes("k", MEGABYTE),
        lambda: store.put("k", tmp_path / "file"),
    ):
        server.clear()
        server.fault(**fault, count=2)
        put()
        assert [request.method for request in server.requests] == ["PUT"] * 3
        assert store.get("k") == MEGABYTE


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "error", "query": "uploads*"},
        {"kind": "error", "query": "*partNumber=2*"},
        {"kind": "drop", "query": "*partNumber=2*", "after": 1 << 20},
        {"kind": "lose", "query": "*partNumber=3*"},
        {"kind": "error", "method": "POST", "query": "uploadId=*"},
        {"kind": "lose", "method": "POST", "query": "uploadId=*"},
    ],
    ids=str,
)
def test_a_broken_multipart_upload_goes_on(
    server: S3Server, store: S3Store, bucket: str, fault: dict[str, object], long_file: Path
) -> None:
    rule = server.fault(**fault)
    store.put("long", long_file)
    assert rule.count == 0
    assert store.get("long") == long_file.read_bytes()
    assert uploads(server, bucket) == []


def test_a_completion_whose_answer_was_lost(
    server: S3Server, store: S3Store, bucket: str, long_file: Path
) -> None:
    server.fault("lose", method="POST", query="uploadId=*")
    server.fault("error", method="POST", query="uploadId=*", status=404, code="NoSuchUpload")
    store.put("long", long_file)
    assert store.get("long") == long_file.read_bytes()
    assert uploads(server, bucket) == []


def test_an_upload_that_fails_leaves_nothing_behind(
    server: S3Server,
    store: S3Store,
    bucket: str,
    long_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.fault("error", query="*partNumber=2*", status=403, code="AccessDenied")
    with pytest.raises(PermissionError, match=f"s3://{bucket}/long: AccessDenied"):
        store.put("long", long_file)
    monkeypatch.setattr(s3, "PATIENCE", 0.3)
    server.fault("error", query="*partNumber=2*", count=1000)
    server.fault("error", method="DELETE", count=2)
    with pytest.raises(ConnectionError, match="still says SlowDown"):
        store.put("long", long_file)
    assert uploads(server, bucket) == []
    assert store.names("") == []


# Outages


def test_an_outage_is_waited_out(
    server: S3Server, store: S3Store, bucket: str, long_file: Path
) -> None:
    store.put_bytes("k", b"x")
    server.down(seconds=1)
    with ThreadPoolExecutor() as pool:
        gets = [pool.submit(store.get, "k") for _ in range(20)]
        put = pool.submit(store.put, "long", long_file)
        assert {get.result() for get in gets} == {b"x"}
        put.result()
    assert store.get("long") == long_file.read_bytes()
    assert uploads(server, bucket) == []


def test_an_outage_in_the_middle_of_an_upload(
    server: S3Server, store: S3Store, bucket: str, long_file: Path
) -> None:
    server.fault("slow", query="*partNumber=2*", seconds=60)
    with ThreadPoolExecutor() as pool:
        put = pool.submit(store.put, "long", long_file)
        while not any("partNumber=2" in request.query for request in list(server.requests)):
            pass
        server.down(seconds=1)
        put.result()
    assert store.get("long") == long_file.read_bytes()
    assert uploads(server, bucket) == []


def test_patience_ends(
    server: S3Server, store: S3Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PATIENCE", 0.3)
    monkeypatch.setattr(s3, "READ_TIMEOUT", 0.1)
    store.put_bytes("k", b"x")
    server.fault("slow", count=1000, seconds=0.5)
    impatient = open_store(bucket, S3Options(endpoint=server.endpoint))
    with pytest.raises(TimeoutError, match=f"s3://{bucket}/k"):
        impatient.get("k")
    server.clear()
    server.fault("error", count=1000)
    with pytest.raises(ConnectionError, match=f"s3://{bucket}/k: .* SlowDown"):
        store.get("k")
    server.clear()
    server.down()
    with pytest.raises(ConnectionError, match=f"s3://{bucket}/k: Could not connect"):
        store.get("k")
    server.up()
    assert store.get("k") == b"x"


# Errors a user can mend


def test_what_is_not_there(server: S3Server, store: S3Store, bucket: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"s3://{bucket}/no: there is no such object"):
        store.get("no")
    with pytest.raises(FileNotFoundError, match=f"s3://{bucket}/no"):
        store.size("no")
    nowhere = open_store("no-bucket", S3Options(endpoint=server.endpoint))
    with pytest.raises(FileNotFoundError, match="s3://no-bucket/k: there is no such bucket"):
        nowhere.get("k")
    with pytest.raises(FileNotFoundError, match="s3://no-bucket/k"):
        nowhere.put_bytes("k", b"")
    with pytest.raises(FileNotFoundError, match="s3://no-bucket/f"):
        nowhere.names("f")


def test_what_is_not_allowed(server: S3Server, store: S3Store, bucket: str) -> None:
    server.fault("error", status=403, code="AccessDenied", count=5)
    for attempt in (
        lambda: store.get("k"),
        lambda: store.size("k"),
        lambda: store.put_bytes("k", b""),
        lambda: store.names("k"),
        lambda: store.delete(["k"]),
    ):
        with pytest.raises(PermissionError, match=rf"s3://{bucket}/k: .*`requester_pays`"):
            attempt()
    assert len(server.requests) == 5


def test_a_single_key_that_may_not_be_deleted(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [
        {"Errors": [{"Key": "b", "Code": "InternalError", "Message": "try again"}]},
        {"Errors": [{"Key": "b", "Code": "AccessDenied", "Message": "no"}]},
    ]
    asked = []

    def request(_: S3Store, operation: str, **arguments: dict[str, list[dict[str, str]]]) -> object:
        asked.append([entry["Key"] for entry in arguments["Delete"]["Objects"]])
        return answers.pop(0)

    monkeypatch.setattr(S3Store, "_request", request)
    with pytest.raises(PermissionError, match="AccessDenied: no"):
        store.delete(["a", "b"])
    assert asked == [["a", "b"], ["b"]]


def test_without_credentials(
    server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = open_store(bucket, S3Options(endpoint=server.endpoint))
    with pytest.raises(PermissionError, match=f"s3://{bucket}/k: .*AWS_ACCESS_KEY_ID"):
        store.get("k")
    assert not server.requests


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "shards.stores.s3")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mixwright\[s3\]'"):
        import_module("shards.stores.s3")


# Options


def test_anonymous_requests_are_not_signed(server: S3Server, bucket: str) -> None:
    server.client.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="public-read")
    store = open_store(bucket, S3Options(endpoint=server.endpoint, anonymous=True))
    assert store.get("k") == b"x"
    assert "authorization" not in server.requests[0].headers


def test_the_requester_pays_for_every_request(
    server: S3Server, bucket: str, long_file: Path
) -> None:
    store = open_store(bucket, S3Options(endpoint=server.endpoint, requester_pays=True))
    store.put("long", long_file)
    server.fault("error", query="*partNumber=1*", status=403, code="AccessDenied")
    with pytest.raises(PermissionError):
        store.put("aborted", long_file)
    store.put_bytes("k", b"x")
    assert (store.get("k"), store.size("k"), store.names("")) == (b"x", 1, ["k", "long"])
    store.delete(["k"])
    assert {request.method for request in server.requests} == {
        "DELETE", "GET", "HEAD", "POST", "PUT"
    }  # fmt: skip
    assert {request.headers.get("x-amz-request-payer") for request in server.requests} == {
        "requester"
    }


def test_nobody_pays_unasked(server: S3Server, store: S3Store) -> None:
    store.put_bytes("k", b"x")
    assert "x-amz-request-payer" not in server.requests[0].headers


def test_profile_and_region(
    server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        "[profile crawl]\naws_access_key_id = CRAWLER\naws_secret_access_key = secret\n"
    )
    options = S3Options(endpoint=server.endpoint, profile="crawl", region="eu-central-1")
    open_store(bucket, options).put_bytes("k", b"x")
    assert "Credential=CRAWLER/" in server.requests[0].headers["authorization"]
    assert "/eu-central-1/s3/" in server.requests[0].headers["authorization"]
    with pytest.raises(PermissionError, match=f"s3://{bucket}: .*other.*config"):
        open_store(bucket, S3Options(profile="other"))


def test_addresses() -> None:
    amazon = open_store("b", S3Options(region="eu-west-1"))._client
    url = amazon.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "k"})
    assert url.startswith("https://bucket.s3.amazonaws.com/k?")


# The server as a process of its own


def test_another_process_can_ask_for_an_outage(tmp_path: Path) -> None:
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "data/a/k").write_bytes(b"x")
    script = Path(__file__).parents[2] / "servers/s3.py"
    command = [sys.executable, script, "--bucket", "crawl", "--data", tmp_path / "data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            endpoint = process.stdout.readline().strip()
            store = open_store("crawl", S3Options(endpoint=endpoint))
            assert store.get("a/k") == b"x"
            control(endpoint, "down", seconds=0.5)
            assert store.get("a/k") == b"x"
            control(endpoint, "fault", kind="error", method="GET", keys="a/*", count=2)
            assert store.get("a/k") == b"x"
            assert b'"method": "GET"' in control(endpoint, "requests")
        finally:
            process.terminate()
    assert process.returncode == 0
