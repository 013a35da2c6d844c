"""What a hostile web does to the downloader: each attack ends as its own reason, within bounds."""

import gzip
import io
import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from PIL import Image

from tests.pipelines.fetching.web import Answer, Handler, Web, redirect, respond, serving, stream

SECONDS = 15.0  # that a URL has
MEGABYTE = 1 << 20
# What docs/images.md says of memory: the process itself, what bodies may hold, and pictures.
ITSELF, HELD = 320 * MEGABYTE, 32 * MEGABYTE
PIXEL = 12  # bytes, of an opaque picture above 8 megapixels, of which one is decoded at a time
ROOT = Path(__file__).parents[3]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_head(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, and whose data begins as it should."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(MEGABYTE))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data)


def picture(kind: str, side: int = 64) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(file, kind)
    return file.getvalue()


def raw(head: bytes, endless: Callable[[int], bytes]) -> Answer:
    """`head`, then pieces until the client has had enough."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(head)
        deadline, number = time.monotonic() + 3 * SECONDS, 0
        while time.monotonic() < deadline:
            handler.wfile.write(endless(number))
            number += 1

    return answer


def later(piece: bytes) -> bytes:
    """When what went before has been read."""
    time.sleep(0.3)
    return piece


def encoded(coding: str, body: bytes) -> Answer:
    return respond(200, body, ("Content-Encoding", coding), ("Content-Type", "image/png"))


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
HTML = b"<!doctype html><title>Not found</title><script>alert(1)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
JPEG = ("Content-Type", "image/jpeg")

ATTACKS: dict[str, tuple[Answer, str]] = {
    "redirect_to_metadata": (
        redirect("http://169.254.169.254/latest/meta-data/"),
        "private_address",
    ),
    "redirect_to_loopback": (redirect("http://localhost:{port}/secret"), "private_address"),
    "redirect_to_a_file": (redirect("file:///etc/passwd"), "bad_url"),
    "redirect_loop": (redirect("/redirect_loop"), "too_many_redirects"),
    "endless_body": (stream(200 * MEGABYTE, JPEG), "too_large"),
    "stated_length": (respond(200, b"", length=10**15), "too_large"),
    "gzip_bomb": (encoded("gzip", gzip.compress(bytes(50 * MEGABYTE))), "too_large"),
    "deflate_bomb": (encoded("deflate", zlib.compress(bytes(50 * MEGABYTE))), "too_large"),
    "brotli_bomb": (encoded("br", brotli.compress(bytes(50 * MEGABYTE), quality=4)), "too_large"),
    "zstd_bomb": (encoded("zstd", zstandard.compress(bytes(50 * MEGABYTE))), "too_large"),
    "bomb_in_a_bomb": (
        encoded("gzip, gzip", gzip.compress(gzip.compress(HTML))),
        "unknown_encoding",
    ),
    "not_what_it_is_coded": (encoded("gzip", HTML), "truncated_body"),
    "large_png": (respond(200, png_head(50_000, 50_000)), "image_too_many_pixels"),
    "html_as_image": (respond(200, HTML, JPEG), "image_not_decodable"),
    "truncated_jpeg": (respond(200, picture("JPEG", 512)[:-900], JPEG), "image_not_decodable"),
    "cut_body": (respond(200, picture("JPEG")[:200], JPEG, length=900), "truncated_body"),
    "svg_with_script": (respond(200, SVG, ("Content-Type", "image/svg+xml")), "image_format"),
    "many_headers": (raw(OK, lambda k: b"X-%d: a\r\n" % k), "bad_response"),
    "long_header": (raw(OK + b"X: ", lambda k: b"a" * 65536), "bad_response"),
    "long_chunk_extension": (raw(CHUNKED + b"1;", lambda k: b"a" * 65536), "timed_out"),
    "endless_trailer": (
        raw(CHUNKED + b"1\r\na\r\n", lambda k: b"X-%d: a\r\n" % k if k else later(b"0\r\n")),
        "truncated_body",
    ),
    "no_http": (raw(b"\x16\x03\x01", lambda k: b"\0" * 65536), "bad_response"),
    "continue_for_ever": (raw(b"", lambda k: b"HTTP/1.1 100 Continue\r\n\r\n"), "timed_out"),
    "drip": (stream(10**6, JPEG, chunk=1, pause=0.05), "timed_out"),
}


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with serving() as web:
        web.answers |= {f"/{name}": answer for name, (answer, _) in ATTACKS.items()}
        web.answers["/redirect_to_loopback"] = redirect(f"http://localhost:{web.port}/secret")
        web.answers["/secret"] = respond(200, picture("PNG"))
        yield web


def download(urls: list[str], web: Web, folder: Path, **options: object) -> dict[str, Any]:
    """What a downloader in a process of its own says, with tight bounds."""
    given = {
        "connect_to": {"*.test": f"127.0.0.1:{web.port}"},
        "total_seconds": SECONDS,
        "max_bytes": 8 * MEGABYTE,
        "held_bytes": HELD,
        "retries": 0,
        "per_host_rate": 1000,
        **options,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipelines.fetching.hostile_child", folder],
        input=json.dumps({"urls": urls, "options": given}),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def attacked(web: Web, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All attacks at once, each from a host of its own, between pictures that mean well."""
    urls = [f"http://{name.replace('_', '-')}.test/{name}" for name in ATTACKS]
    urls += ["http://rebound.example/secret", "https://tls.test/secret"]
    urls += [f"http://good{k}.test/secret" for k in range(10)]
    return download(urls, web, tmp_path_factory.mktemp("hostile"))


def ended(attacked: Mapping[str, Any]) -> dict[str, str | None]:
    reasons: dict[str, str | None] = attacked["reasons"]
    return {url.split("/", 3)[2].removesuffix(".test"): why for url, why in reasons.items()}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_as_its_own_reason(name: str, attacked: dict[str, Any]) -> None:
    assert ended(attacked)[name.replace("_", "-")] == ATTACKS[name][1]


def test_a_name_that_turns_private_is_never_opened(attacked: dict[str, Any], web: Web) -> None:
    assert ended(attacked)["rebound.example"] == "connection_failed"
    hosts = {host for host, path in web.asked if path == "/secret"}
    assert hosts == {f"good{k}.test" for k in range(10)}


def test_a_server_that_cannot_prove_its_name_is_not_believed(attacked: dict[str, Any]) -> None:
    assert ended(attacked)["tls"] == "tls_failed"


def test_pictures_that_mean_well_come_all_the_same(attacked: dict[str, Any]) -> None:
    assert [ended(attacked)[f"good{k}"] for k in range(10)] == [None] * 10


def test_memory_stays_under_the_stated_bound(attacked: dict[str, Any]) -> None:
    assert attacked["peak"] < ITSELF + HELD


def test_large_bodies_wait_for_each_other_and_all_come(web: Web, tmp_path: Path) -> None:
    """Forty bodies of 8 MB, which are 320 MB together, in a memory of 32 MB."""
    web.answers["/large"] = respond(200, picture("PNG") + bytes(7 * MEGABYTE))
    web.answers["/unstated"] = stream(7 * MEGABYTE, JPEG)
    urls = [f"http://h{k}.test/{('large', 'unstated')[k % 2]}" for k in range(40)]
    said = download(urls, web, tmp_path, total_seconds=120)
    by_kind = {url.rpartition("/")[2]: why for url, why in said["reasons"].items()}
    assert by_kind == {"large": None, "unstated": "image_not_decodable"}
    assert said["peak"] < ITSELF + HELD


def test_pictures_of_many_pixels_are_decoded_one_at_a_time(web: Web, tmp_path: Path) -> None:
    body = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(body, "PNG", compress_level=1)
    for k in range(3):
        web.answers[f"/huge{k}"] = respond(200, body.getvalue() + bytes([k]))
    said = download([f"http://h{k}.test/huge{k}" for k in range(3)], web, tmp_path)
    assert {*said["reasons"].values()} == {None}
    assert said["peak"] < ITSELF + HELD + PIXEL * 8000 * 8000
