"""The downloader against a real server on loopback that misbehaves in every way it is asked to."""

import asyncio
import datetime
import gzip
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.fetching import addresses, fetch
from pipelines.fetching.fetch import Fetched, FetchOptions, fetcher
from tests.pipelines.fetching.web import (
    Answer,
    Handler,
    Web,
    counted,
    one_after_another,
    redirect,
    respond,
    serving,
    stream,
)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def options(web: Web) -> FetchOptions:
    """Every host below `test` is the server; no real time is lost between requests."""
    target = f"127.0.0.1:{web.port}"
    return FetchOptions(
        total_seconds=10,
        backoff_seconds=0.001,
        per_host_rate=10_000,
        connect_to={"*.test": target},
    )


def fetch_all(urls: Sequence[str], options: FetchOptions) -> list[Fetched]:
    """How each URL ends when all are asked together."""

    async def together() -> list[Fetched]:
        async with fetcher(options) as call:
            return await asyncio.gather(*(end(call, url) for url in urls))

    async def end(call: fetch.Fetcher, url: str) -> Fetched:
        async with call.fetched(url) as fetched:
            return fetched

    return asyncio.run(together())


def one(url: str, options: FetchOptions) -> Fetched:
    [fetched] = fetch_all([url], options)
    return fetched


def test_a_body_comes_with_where_it_was_found(web: Web, options: FetchOptions) -> None:
    web.answers["/a.jpg"] = respond(200, b"bytes", ("Content-Type", "image/jpeg"))
    url = "http://a.test/a.jpg"
    assert one(url, options) == Fetched(url, b"bytes", None, "image/jpeg", 200, url)
    assert web.asked == [("a.test", "/robots.txt"), ("a.test", "/a.jpg")]
    assert web.headers[1]["User-Agent"] == options.user_agent
    assert web.headers[1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("status", "reason", "asked"),
    [
        (404, "http_404", 1),
        (410, "http_410", 1),
        (403, "http_status", 1),
        (451, "http_status", 1),
        (500, "http_5xx", 3),
        (501, "http_5xx", 1),
        (429, "http_try_later", 3),
        (408, "http_try_later", 3),
        (304, "http_status", 1),
    ],
)
def test_a_status_is_a_reason_and_only_a_passing_one_is_retried(
    status: int, reason: str, asked: int, web: Web, options: FetchOptions
) -> None:
    web.answers["/a"] = respond(status)
    fetched = one("http://a.test/a", options)
    assert (fetched.body, fetched.reason, fetched.status) == (None, reason, status)
    assert web.paths().count("/a") == asked


def test_a_passing_failure_passes(web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = one_after_another(respond(502), respond(503), respond(200, b"a"))
    assert one("http://a.test/a", options).body == b"a"


def test_retry_after_is_waited_for(web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = one_after_another(
        respond(429, b"", ("Retry-After", "1")), respond(200, b"a")
    )
    assert one("http://a.test/a", options).body == b"a"
    assert web.times[2] - web.times[1] >= 1


def test_retry_after_beyond_the_deadline_ends_the_url_and_spares_the_host(
    web: Web, options: FetchOptions
) -> None:
    web.answers["/0"] = respond(503, b"", ("Retry-After", "3600"))
    urls = [f"http://a.test/{k}" for k in range(5)]
    first, *others = fetch_all(urls, replace(options, per_host_concurrency=1))
    assert (first.reason, first.status) == ("http_5xx", 503)
    assert {f.reason for f in others} == {"host_gave_up"}
    assert web.paths() == ["/robots.txt", "/0"]


@pytest.mark.parametrize("days", [-1, 1])
def test_retry_after_may_be_a_date(days: int, web: Web, options: FetchOptions) -> None:
    date = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    header = ("Retry-After", date.strftime("%a, %d %b %Y %H:%M:%S GMT"))
    web.answers["/a"] = one_after_another(respond(503, b"", header), respond(200, b"a"))
    assert one("http://a.test/a", options).body == (b"a" if days < 0 else None)


def test_backoff_doubles_and_jitters_by_a_hash() -> None:
    options = FetchOptions(backoff_seconds=1)
    waits = [fetch._backoff(options, "http://a.test/", attempt) for attempt in range(4)]
    assert waits == [fetch._backoff(options, "http://a.test/", attempt) for attempt in range(4)]
    assert all(0.5 * 2**k <= wait < 1.5 * 2**k for k, wait in enumerate(waits))
    assert waits[0] != fetch._backoff(options, "http://b.test/", 0)


# --- robots.txt and opt-out headers


def test_robots_is_asked_once_a_host_and_obeyed(web: Web, options: FetchOptions) -> None:
    rules = b"User-agent: mixwright\nDisallow: /private\n\nUser-agent: *\nDisallow: /\n"
    web.answers |= {"/robots.txt": respond(200, rules), "/a": respond(200, b"a")}
    urls = ["http://a.test/a", "http://a.test/private/a", "http://b.test/a"]
    assert [f.reason for f in fetch_all(urls, options)] == [None, "refused_by_robots", None]
    assert Counter(web.asked)["a.test", "/robots.txt"] == 1
    assert ("a.test", "/private/a") not in web.asked


def test_robots_of_a_redirect_target_is_obeyed(web: Web, options: FetchOptions) -> None:
    by_host = {"a.test": respond(404), "b.test": respond(200, b"User-agent: *\nDisallow: /")}
    web.answers["/robots.txt"] = lambda h: by_host[h.headers["Host"].split(":")[0]](h)
    web.answers["/a"] = redirect("http://b.test/b")
    fetched = one("http://a.test/a", options)
    assert (fetched.reason, fetched.final_url) == ("refused_by_robots", "http://b.test/b")
    assert "/b" not in web.paths()


@pytest.mark.parametrize(
    ("robots", "reason"),
    [
        (respond(404), None),
        (respond(403), None),
        (respond(200, b"\xff\xfe not text \x00"), None),
        (respond(200, b"\xef\xbb\xbfUser-agent: *\nDisallow: /"), "refused_by_robots"),
        (respond(500), "robots_unavailable"),
        (respond(429), "robots_unavailable"),
        (one_after_another(respond(500), respond(404)), None),
        (redirect("/elsewhere.txt"), "refused_by_robots"),
        (redirect("/robots.txt"), None),  # RFC 9309, 2.3.1.2: past five redirects it is absent
        (redirect("http://127.0.0.1:1/"), "private_address"),
        (respond(200, b"User-agent: *", length=100), "robots_unavailable"),
        # Cut at 512 KiB: what follows is not read.
        (respond(200, b"#" * 600_000 + b"\nUser-agent: *\nDisallow: /"), None),
        (respond(200, b"User-agent: *\nDisallow: /\n" + b"#" * 600_000), "refused_by_robots"),
    ],
)
def test_what_robots_txt_may_be(
    robots: Answer, reason: str | None, web: Web, options: FetchOptions
) -> None:
    web.answers |= {"/robots.txt": robots, "/a": respond(200, b"a")}
    web.answers["/elsewhere.txt"] = respond(200, b"User-agent: *\nDisallow: /a")
    assert one("http://a.test/a", options).reason == reason
    assert ("/a" in web.paths()) == (reason is None)


def test_a_robots_txt_that_never_comes_refuses(web: Web, options: FetchOptions) -> None:
    web.answers |= {"/robots.txt": respond(200, wait=1), "/a": respond(200, b"a")}
    fetched = one("http://a.test/a", replace(options, total_seconds=0.4))
    assert fetched.reason == "robots_unavailable"


def test_robots_can_be_left_out(web: Web, options: FetchOptions) -> None:
    web.answers |= {"/robots.txt": respond(500), "/a": respond(200, b"a")}
    assert one("http://a.test/a", replace(options, respect_robots=False)).body == b"a"
    assert web.paths() == ["/a"]


def test_an_opt_out_header_is_honoured_before_the_body_is_read(
    web: Web, options: FetchOptions
) -> None:
    total = 64_000_000
    web.answers["/a"] = stream(total, ("X-Robots-Tag", "noai, noimageai"))
    fetched = one("http://a.test/a", options)
    assert (fetched.reason, fetched.body) == ("opt_out_header", None)
    assert web.paths().count("/a") == 1
    assert web.sent < total / 4  # what fits in the buffers of two sockets


@pytest.mark.parametrize("directive", FetchOptions.opt_out_headers)
@pytest.mark.parametrize("tag", ["{}", "otherbot: nofollow, mixwright: {}", "nofollow, {}"])
def test_every_directive_refuses_also_by_name(
    tag: str, directive: str, web: Web, options: FetchOptions
) -> None:
    web.answers["/a"] = respond(200, b"a", ("X-Robots-Tag", tag.format(directive)))
    assert one("http://a.test/a", options).reason == "opt_out_header"


@pytest.mark.parametrize(
    ("tags", "refused"),
    [
        ([], False),
        (["nofollow, max-snippet: 20"], False),
        (["NoAI"], True),
        (["nofollow", "noindex"], True),
        (["none"], True),
        (["mixwright: noimageai"], True),
        (["otherbot: noai, noindex"], False),
        (["otherbot: noai, mixwright: noindex"], True),
        (["otherbot: noai", "noml"], True),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST, noai"], True),
        (["*: noai"], True),
    ],
)
def test_x_robots_tag(tags: list[str], refused: bool, web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = respond(200, b"a", *(("X-Robots-Tag", tag) for tag in tags))
    expected = (None, "opt_out_header") if refused else (b"a", None)
    fetched = one("http://a.test/a", options)
    assert (fetched.body, fetched.reason) == expected


def test_opt_out_directives_are_an_option(web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = respond(200, b"a", ("X-Robots-Tag", "noindex"))
    assert one("http://a.test/a", replace(options, opt_out_headers=("noai",))).body == b"a"


# --- bounds


@pytest.mark.parametrize("answer", [stream(64_000_000), respond(200, b"", length=2_000_000)])
def test_a_body_over_the_limit_is_not_read_to_its_end(
    answer: Answer, web: Web, options: FetchOptions
) -> None:
    web.answers["/a"] = answer
    fetched = one("http://a.test/a", replace(options, max_bytes=1_000_000))
    assert (fetched.reason, fetched.status) == ("too_large", 200)
    assert web.sent < 16_000_000


def test_the_limit_itself_is_allowed(web: Web, options: FetchOptions) -> None:
    web.answers |= {"/a": respond(200, b"x" * 1000), "/b": respond(200, b"x" * 1001)}
    options = replace(options, max_bytes=1000)
    fetched = fetch_all(["http://a.test/a", "http://a.test/b"], options)
    assert [f.reason for f in fetched] == [None, "too_large"]


def test_a_compressed_bomb_is_too_large(web: Web, options: FetchOptions) -> None:
    coding = ("Content-Encoding", "gzip")
    web.answers["/bomb"] = respond(200, gzip.compress(bytes(50_000_000)), coding)
    web.answers["/small"] = respond(200, gzip.compress(b"small"), coding)
    options = replace(options, max_bytes=1_000_000)
    bomb, small = fetch_all(["http://a.test/bomb", "http://a.test/small"], options)
    assert bomb.reason == "too_large"
    assert small.body == b"small"


def test_a_body_that_drips_past_the_deadline_times_out(web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = stream(1000, chunk=1, pause=0.02)
    hurried = replace(options, total_seconds=0.5, respect_robots=False)
    fetched = one("http://a.test/a", hurried)
    assert (fetched.reason, fetched.body) == ("timed_out", None)
    assert web.paths().count("/a") == 1
    assert web.sent < 500


def test_the_deadline_covers_redirects_together(web: Web, options: FetchOptions) -> None:
    web.answers |= {f"/{k}": lambda h, k=k: slow_redirect(h, k + 1) for k in range(5)}
    web.answers["/5"] = respond(200, b"a")
    hurried = replace(options, total_seconds=0.5, respect_robots=False)
    assert one("http://a.test/0", hurried).reason == "timed_out"
    assert one("http://a.test/0", options).body == b"a"


def slow_redirect(handler: Handler, k: int) -> None:
    time.sleep(0.2)
    redirect(f"/{k}")(handler)


def test_a_truncated_body_is_retried_and_never_returned(web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = respond(200, b"half", length=8)
    assert one("http://a.test/a", options).reason == "truncated_body"
    assert web.paths().count("/a") == 3


def test_a_server_that_hangs_up_is_a_failed_connection(web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = lambda h: h.connection.shutdown(socket.SHUT_RDWR)
    assert one("http://a.test/a", options).reason == "connection_failed"


def test_nobody_listening_is_a_failed_connection(options: FetchOptions) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{unused.getsockname()[1]}"
        fetched = one("http://a.test/a", replace(options, connect_to={"a.test": target}))
    assert (fetched.reason, fetched.status) == ("connection_failed", None)


# --- redirects


def test_redirects_are_followed(web: Web, options: FetchOptions) -> None:
    web.answers |= {"/a": redirect("b?x=1", 301), "/b?x=1": redirect("//b.test/c", 308)}
    web.answers["/c"] = respond(200, b"c")
    fetched = one("http://a.test/a", options)
    assert (fetched.body, fetched.final_url) == (b"c", "http://b.test/c")


def test_redirects_end(web: Web, options: FetchOptions) -> None:
    web.answers |= {"/a": redirect("/b"), "/b": redirect("/a")}
    assert one("http://a.test/a", options).reason == "too_many_redirects"
    assert len(web.paths()) == 1 + 6  # robots.txt, the URL, five redirects


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://127.0.0.1:{port}/secret", "private_address"),
        ("http://2130706433:{port}/secret", "private_address"),
        ("http://0x7f.1:{port}/secret", "private_address"),
        ("http://017700000001:{port}/secret", "private_address"),
        ("http://[::ffff:127.0.0.1]:{port}/secret", "private_address"),
        ("http://localhost:{port}/secret", "private_address"),
        ("http://169.254.169.254/latest/meta-data/", "private_address"),
        ("file:///etc/passwd", "bad_url"),
        ("ftp://a.test/a", "bad_url"),
        ("http://[::1/", "bad_url"),
        ("http://a.test:99999/", "bad_url"),
    ],
)
def test_a_redirect_leads_nowhere_private(
    location: str, reason: str, web: Web, options: FetchOptions
) -> None:
    web.answers["/a"] = redirect(location.format(port=web.port))
    web.answers["/secret"] = respond(200, b"secret")
    assert one("http://a.test/a", options).reason == reason
    assert "/secret" not in web.paths()


def test_cookies_and_credentials_go_nowhere(web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = lambda h: respond(302, b"", ("Set-Cookie", "a=1"), ("Location", "/b"))(h)
    web.answers["/b"] = respond(200, b"b")
    assert one("http://user:password@a.test/a", options).final_url == "http://a.test/b"
    assert not any({"Cookie", "Authorization"} & {*headers} for headers in web.headers)


def test_no_proxy_of_the_environment_is_used(
    web: Web, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    web.answers["/a"] = respond(200, b"a")
    assert one("http://a.test/a", options).body == b"a"


# --- addresses


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.jpg",
        "http://",
        "ftp://a.test/",
        "data:image/png;base64,AA",
        "http://[]@",
    ],
)
def test_what_is_no_web_url(url: str, options: FetchOptions) -> None:
    assert one(url, options).reason == "bad_url"


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Makes the system's resolver give these addresses, one answer after another."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (a, port, 0, 0))
            if ":" in a
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in found
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
    ],
)
def test_a_name_with_a_private_address_is_refused(
    address: str, web: Web, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, [address])
    web.answers["/a"] = respond(200, b"secret")
    assert one(f"http://rebound.example:{web.port}/a", options).reason == "private_address"
    assert web.asked == []


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Records the addresses that connections are made to, and refuses them."""
    tried: list[str] = []

    async def start_connection(addr_infos: list[Any], **_: Any) -> socket.socket:
        tried.extend(info[4][0] for info in addr_infos)
        raise OSError("no network in tests")

    monkeypatch.setattr("aiohttp.connector.aiohappyeyeballs.start_connection", start_connection)
    return tried


def test_only_the_public_addresses_of_a_name_are_opened(
    options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    names(monkeypatch, ["10.0.0.1", "93.184.216.34", "::1"])
    tried = opened(monkeypatch)
    assert one("http://mixed.example/a", options).reason == "connection_failed"
    assert {*tried} == {"93.184.216.34"}


def test_a_name_that_turns_private_is_never_opened(
    options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that was checked is the one that is opened, whatever the name says next."""
    asked = names(monkeypatch, ["93.184.216.34"], ["127.0.0.1"])
    tried = opened(monkeypatch)
    one("http://rebound.example/a", replace(options, respect_robots=False))
    assert {*tried} == {"93.184.216.34"}
    assert asked[0] == "rebound.example"


def test_a_name_without_an_address(options: FetchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, [])
    assert one("http://unknown.example/a", options).reason == "dns_failed"


def test_loopback_opens_for_the_hosts_of_connect_to_alone(web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = respond(200, b"a")
    url = f"http://127.0.0.1:{web.port}/a"
    assert one(url, options).reason == "private_address"
    own = replace(options, connect_to={"127.0.0.1": f"127.0.0.1:{web.port}"})
    assert one(url, own).body == b"a"
    assert one("http://127.0.0.1:1/a", own).reason == "private_address"
    with pytest.raises(ValueError, match=r"93\.184\.216\.34 cannot stand for 127\.0\.0\.1:80"):
        FetchOptions(connect_to={"93.184.216.34": "127.0.0.1:80"})
    with pytest.raises(ValueError, match="localhost"):
        FetchOptions(connect_to={"a.test": "localhost:80"})


def test_the_closest_route_wins() -> None:
    routes = {"*.test": "127.0.0.1:1", "*.a.test": "127.0.0.1:2", "a.test": "[::1]:3"}
    assert addresses.routed("b.test", routes) == ("127.0.0.1", 1)
    assert addresses.routed("X.b.a.test.", routes) == ("127.0.0.1", 2)
    assert addresses.routed("a.test", routes) == ("::1", 3)
    assert addresses.routed("test", routes) is None
    assert addresses.routed("a.test.example", routes) is None


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"]
)
def test_public_addresses(address: str) -> None:
    assert addresses.is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.9.9.9", "168.63.129.16", "169.254.1.1"),
        *("172.31.0.1", "192.0.0.192", "192.168.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1"),
        *("64:ff9b:1::1", "2001:db8::1", "2002:7f00:1::", "fc00::1", "fe80::1", "fe80::1%1"),
        *("fec0::1", "ff02::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not addresses.is_public(address)


@given(st.ip_addresses(v=4))
def test_every_spelling_of_an_address_is_seen_through(ip: IPv4Address) -> None:
    number, (a, b, c, d) = int(ip), ip.packed
    spellings = [str(ip), str(number), hex(number), f"0{number:o}", f"{a}.{number & 0xFFFFFF}"]
    spellings += [f"{a:#x}.{b:#x}.{c}.0{d:o}", f"{a}.{b}.{c << 8 | d}"]
    assert {addresses.literal(spelling) for spelling in spellings} == {str(ip)}


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_as_private_as_it_is_alone(ip: IPv4Address) -> None:
    for prefix in (0xFFFF << 32, int(IPv6Address("64:ff9b::"))):
        assert addresses.is_public(str(IPv6Address(prefix | int(ip)))) == addresses.is_public(
            str(ip)
        )


# --- politeness


def test_a_host_sees_no_more_requests_at_once_than_allowed(web: Web, options: FetchOptions) -> None:
    urls = [f"http://{host}.test/{k}" for k in range(12) for host in "ab"]
    web.answers |= {f"/{k}": counted for k in range(12)}
    assert {f.body for f in fetch_all(urls, replace(options, per_host_concurrency=3))} == {b"a"}
    assert 1 < web.busiest["a.test"] <= 3
    assert 1 < web.busiest["b.test"] <= 3
    assert web.busiest[""] > 3


def test_concurrency_bounds_all_hosts_together(web: Web, options: FetchOptions) -> None:
    web.answers["/a"] = counted
    fetch_all([f"http://h{k}.test/a" for k in range(12)], replace(options, concurrency=2))
    assert web.busiest[""] == 2


def test_requests_to_a_host_are_spaced_and_the_wait_is_not_the_urls_time(
    web: Web, options: FetchOptions
) -> None:
    web.answers |= {f"/{k}": respond(200, b"a") for k in range(16)}
    urls = [f"http://a.test/{k}" for k in range(16)]
    fetched = fetch_all(urls, replace(options, per_host_rate=10, total_seconds=1))
    assert {f.reason for f in fetched} == {None}
    assert max(web.times) - min(web.times) > 1.6 / 2  # 17 requests with robots.txt


@pytest.mark.parametrize(("delay", "most"), [(0.3, 30.0), (1e6, 0.1)])
def test_a_crawl_delay_is_kept_within_bounds(
    delay: float, most: float, web: Web, options: FetchOptions
) -> None:
    web.answers |= {f"/{k}": respond(200, b"a") for k in range(4)}
    web.answers["/robots.txt"] = respond(200, f"User-agent: *\nCrawl-delay: {delay}".encode())
    fetched = fetch_all(
        [f"http://a.test/{k}" for k in range(4)], replace(options, max_crawl_delay=most)
    )
    assert {f.body for f in fetched} == {b"a"}
    assert web.times[-1] - web.times[1] >= 3 * min(delay, most) - 0.05


def test_robots_that_are_too_many_to_remember_are_asked_again(
    web: Web, options: FetchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "ROBOTS_MEMORY", 2 * fetch.ROBOTS_OVERHEAD)
    web.answers["/a"] = respond(200, b"a")
    urls = [f"http://{host}.test/a" for host in ("a", "a", "b", "c", "d", "c", "a")]

    async def one_by_one() -> list[bytes | None]:
        found = []
        async with fetcher(options) as call:
            for url in urls:
                async with call.fetched(url) as fetched:
                    found.append(fetched.body)
        return found

    assert asyncio.run(one_by_one()) == [b"a"] * 7
    asked = Counter(host for host, path in web.asked if path == "/robots.txt")
    assert asked == {"a.test": 2, "b.test": 1, "c.test": 1, "d.test": 1}


def test_memory_is_given_in_the_order_in_which_it_was_asked_for() -> None:
    got: list[str] = []

    async def take(memory: fetch._Memory, name: str, amount: int) -> None:
        await memory.take(amount)
        got.append(name)

    async def scene() -> None:
        memory = fetch._Memory(10)
        await take(memory, "first", 6)
        waiting = [asyncio.create_task(take(memory, *ask)) for ask in (("large", 8), ("small", 1))]
        await asyncio.sleep(0)
        assert got == ["first"], "the small one does not pass the large one"
        memory.give(6)
        await asyncio.gather(*waiting)
        assert (got, memory.free) == (["first", "large", "small"], 1)

    asyncio.run(scene())


def test_a_host_that_keeps_failing_is_left_alone(web: Web, options: FetchOptions) -> None:
    web.answers |= {f"/{k}": respond(200, b"half", length=9) for k in range(9)}
    urls = [f"http://a.test/{k}" for k in range(9)]
    strict = replace(options, per_host_concurrency=1, max_host_failures=4)
    reasons = Counter(f.reason for f in fetch_all(urls, strict))
    assert web.paths().count("/robots.txt") == 1
    assert len(web.paths()) == 1 + 4
    assert reasons.keys() <= {"truncated_body", "host_gave_up"}


# --- TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for a.test and its key, as one PEM file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "a.test")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now - day, now + day
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("a.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "pair.pem").write_bytes(secret + made.public_bytes(pem))
    return tmp_path / "pair.pem"


@pytest.fixture
def tls_web(certificate: Path) -> Iterator[Web]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(context) as web:
        yield web


def test_a_certificate_that_nobody_vouches_for_is_refused(
    tls_web: Web, options: FetchOptions
) -> None:
    tls_web.answers["/a"] = respond(200, b"a")
    target = {"a.test": f"127.0.0.1:{tls_web.port}"}
    fetched = one("https://a.test/a", replace(options, connect_to=target))
    assert fetched.reason == "tls_failed"
    assert tls_web.asked == []


def test_a_certificate_that_is_vouched_for_is_accepted(
    tls_web: Web, options: FetchOptions, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    tls_web.answers["/a"] = respond(200, b"a")
    target = f"127.0.0.1:{tls_web.port}"
    options = replace(options, connect_to={"a.test": target, "b.test": target})
    found = fetch_all(["https://a.test/a", "https://b.test/a"], options)
    assert [(f.body, f.reason) for f in found] == [(b"a", None), (None, "tls_failed")]


def test_a_server_that_speaks_no_tls(web: Web, options: FetchOptions) -> None:
    assert one("https://a.test/a", options).reason == "tls_failed"
