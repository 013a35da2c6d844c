import hashlib
import http.client
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.fetching.site import Site, find_file, read_content, serve

RULES = """
a.example/refused.png: {headers: {X-Robots-Tag: noai}}
a.example/gone.png: {status: 410}
a.example/moved.png: {status: 301, location: "http://b.example/there.png"}
a.example/disguised.png: {type: text/html}
a.example/cut.png: {truncate: 3}
a.example/slow.png: {delay: 60}
"""
PICTURES = ("refused.png", "gone.png", "disguised.png", "cut.png", "slow.png")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    for host in ("a.example", "b.example"):
        (root / "www" / host / "folder").mkdir(parents=True)
        (root / "www" / host / "page.html").write_text(f"<p>{host}</p>")
        (root / "www" / host / "folder" / "index.html").write_text("index")
    for name in PICTURES:
        (root / "www" / "a.example" / name).write_bytes(b"picture of " + name.encode())
    (root / "secret.txt").write_text("secret")
    (root / "site.yaml").write_text(RULES)
    return root


@pytest.fixture(scope="module")
def site(root: Path) -> Iterator[Site]:
    with serve(root) as site:
        yield site


def get(
    site: Site, path: str, host: str = "a.example", method: str = "GET"
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(site.host, site.port, timeout=10)
    connection.request(method, path, headers={"Host": host})
    response = connection.getresponse()
    return response, response.read()


def test_the_host_header_chooses_the_folder(site: Site) -> None:
    assert get(site, "/page.html", "a.example")[1] == b"<p>a.example</p>"
    assert get(site, "/page.html", "B.example:80")[1] == b"<p>b.example</p>"
    assert get(site, "/page.html", "c.example")[0].status == 404
    assert get(site, "/page.html", "..")[0].status == 404


def test_headers_do_not_depend_on_the_clock(site: Site) -> None:
    response, _ = get(site, "/page.html?query=ignored")
    assert dict(response.headers) == {
        "Server": "mixwright-sample",
        "Date": "Mon, 01 Jan 2024 00:00:00 GMT",
        "Content-Type": "text/html; charset=utf-8",
        "Content-Length": "16",
        "ETag": f'"{hashlib.sha256(b"<p>a.example</p>").hexdigest()[:16]}"',
    }


def test_a_folder_answers_with_its_index(site: Site) -> None:
    assert get(site, "/folder/")[1] == b"index"
    assert get(site, "/folder")[0].status == 404


def test_rules_change_the_answer(site: Site) -> None:
    assert get(site, "/refused.png")[0].headers["X-Robots-Tag"] == "noai"
    assert get(site, "/gone.png")[0].status == 410
    assert get(site, "/disguised.png")[0].headers["Content-Type"] == "text/html"
    moved, _ = get(site, "/moved.png")
    assert (moved.status, moved.headers["Location"]) == (301, "http://b.example/there.png")


def test_a_truncated_body_ends_before_its_length(site: Site) -> None:
    with pytest.raises(http.client.IncompleteRead) as caught:
        get(site, "/cut.png")
    assert caught.value.partial == b"pic"


def test_a_slow_answer_comes_late(site: Site) -> None:
    connection = http.client.HTTPConnection(site.host, site.port, timeout=0.3)
    connection.request("GET", "/slow.png", headers={"Host": "a.example"})
    with pytest.raises(TimeoutError):
        connection.getresponse()


def test_head_has_the_length_but_no_body(site: Site) -> None:
    response, body = get(site, "/page.html", method="HEAD")
    assert (response.headers["Content-Length"], body) == ("16", b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../../secret.txt",
        "/%2e%2e/%2e%2e/secret.txt",
        "/..%2f..%2fsecret.txt",
        "/../b.example/page.html",
        "//etc/passwd",
        "/page.html%00.png",
        "/missing.html",
    ],
)
def test_nothing_outside_the_hosts_folder_is_served(site: Site, path: str) -> None:
    assert get(site, path)[0].status == 404


def test_a_link_out_of_the_folder_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link.html").symlink_to(root / "secret.txt")
    assert find_file(tmp_path.resolve(), "/link.html") is None


def test_one_connection_serves_many_requests(site: Site) -> None:
    connection = http.client.HTTPConnection(site.host, site.port, timeout=10)
    for path in ("/page.html", "/missing", "/page.html"):
        connection.request("GET", path, headers={"Host": "a.example"})
        connection.getresponse().read()
        socket = connection.sock
        assert socket is not None
    assert connection.sock is socket


def test_a_misspelt_rule_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "www").mkdir()
    (tmp_path / "site.yaml").write_text("a.example/x: {statsu: 404}")
    with pytest.raises(TypeError, match="statsu"):
        read_content(tmp_path)


def test_the_server_is_gone_after_the_block(root: Path) -> None:
    with serve(root) as site:
        assert get(site, "/page.html")[0].status == 200
    with pytest.raises(ConnectionRefusedError):
        get(site, "/page.html")


def test_the_server_ends_when_its_parent_is_gone(root: Path) -> None:
    command = [sys.executable, "-m", "pipelines.fetching.site", str(root)]
    pipe = subprocess.PIPE
    package = Path(__file__).parents[3]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=package) as server:
        assert server.stdin and server.stdout
        assert int(server.stdout.readline()) > 0
        server.stdin.close()
        assert server.wait(timeout=10) == 0


def test_a_root_that_is_not_there_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="did not start"), serve(tmp_path / "none"):
        pass
