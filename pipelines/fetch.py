"""A downloader for URLs that come from strangers: polite to hosts, bounded, and closed inwards.

Every URL ends as a `Fetched` with a body or with one of the reasons below. Nothing is retried
that a site refused, and no address outside the public internet is opened (`addresses`).
"""

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from protego import Protego
from yarl import URL

from pipelines.addresses import (
    PrivateAddressError,
    PublicResolver,
    check_literal,
    endpoint,
    literal,
)
from shards.schema import digest

REFUSED_BY_ROBOTS = "refused_by_robots"
OPT_OUT_HEADER = "opt_out_header"
PRIVATE_ADDRESS = "private_address"
HTTP_404 = "http_404"
HTTP_410 = "http_410"
HTTP_STATUS = "http_status"
TOO_LARGE = "too_large"
TIMED_OUT = "timed_out"
TOO_MANY_REDIRECTS = "too_many_redirects"
CONNECTION_FAILED = "connection_failed"
BAD_URL = "bad_url"
TRUNCATED_BODY = "truncated_body"
TLS_FAILED = "tls_failed"
DNS_FAILED = "dns_failed"
HOST_GAVE_UP = "host_gave_up"  # not asked: the host failed too often, or told us to stay away

REDIRECTS = frozenset({301, 302, 303, 307, 308})
BUSY = frozenset({429, 503})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # statuses that another try may cure
ROBOTS_BYTES = 512 * 1024  # RFC 9309, section 2.5, asks for 500 KiB at least
CHUNK_BYTES = 64 * 1024
# Directives of X-Robots-Tag that carry a value, so that their name is not taken for an agent's.
VALUED_DIRECTIVES = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
)


@dataclass(frozen=True)
class FetchOptions:
    """What a download may cost, and whom it says it is.

    Any port of an http or https URL may be asked. Waiting for a turn at a host is not counted in
    `total_seconds`; back-off and Retry-After are, robots.txt has half as many of its own.
    Raises ValueError for a `connect_to` entry that cannot be followed.
    """

    total_seconds: float = 20.0  # for one URL: connecting, redirects, body and retries together
    max_bytes: int = 20_000_000  # of a body, also after decompression
    max_redirects: int = 5
    retries: int = 2
    backoff_seconds: float = 0.5  # before the first retry; doubles with each
    concurrency: int = 64
    per_host_concurrency: int = 4
    per_host_rate: float = 10.0  # requests a second
    max_host_failures: int = 20  # in a row; the host's other URLs are then not asked
    user_agent: str = "mixwright/0.1 (+https://github.com/mixwright/mixwright)"
    respect_robots: bool = True
    opt_out_headers: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex", "noml")
    # Host, or "*.suffix", to "ADDRESS:PORT", as curl's --connect-to: the only way in which an
    # address that is not public is ever opened.
    connect_to: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for host, target in self.connect_to.items():
            address, _ = endpoint(target)
            if literal(host) not in (None, address):
                raise ValueError(f"connect_to: the address {host} cannot stand for {target}")


@dataclass(frozen=True)
class Fetched:
    """How one URL ended: a body, or the reason why there is none.

    `final_url` is where the redirects had led, `status` the last HTTP status, if any.
    """

    url: str
    body: bytes | None = None
    reason: str | None = None
    content_type: str | None = None
    status: int | None = None
    final_url: str | None = None


class _FetchError(Exception):
    """A URL that gave no body; `passing` if another try may cure it, `after` so many seconds."""

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        passing: bool = False,
        after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.passing = passing
        self.after = after


# The first class that fits names the reason; `passing` says whether to try again.
FAILURES: tuple[tuple[type[Exception], str, bool], ...] = (
    (PrivateAddressError, PRIVATE_ADDRESS, False),
    (aiohttp.InvalidURL, BAD_URL, False),
    (aiohttp.ClientConnectorDNSError, DNS_FAILED, True),
    (aiohttp.ClientSSLError, TLS_FAILED, False),
    (aiohttp.ClientPayloadError, TRUNCATED_BODY, True),
    (TimeoutError, TIMED_OUT, False),
    (aiohttp.ClientError, CONNECTION_FAILED, True),
    (OSError, CONNECTION_FAILED, True),
    (ValueError, BAD_URL, False),
)
KNOWN_ERRORS = tuple(kind for kind, _, _ in FAILURES)


@dataclass
class _Visit:
    """Where a URL has got to, and the seconds it may still spend."""

    url: URL
    seconds: float

    @asynccontextmanager
    async def spending(self) -> AsyncIterator[None]:
        """Takes what the block lasts from the seconds; TimeoutError once there are none left."""
        clock = asyncio.get_running_loop()
        start = clock.time()
        try:
            async with asyncio.timeout(self.seconds):
                yield
        finally:
            self.seconds -= clock.time() - start


@dataclass
class _Host:
    """What we owe one host: a bound on requests at once, and the time of the next one."""

    slots: asyncio.Semaphore
    next_turn: float = 0.0
    quiet_until: float = 0.0
    failures: int = 0  # in a row

    async def take_turn(self, visit: _Visit, options: FetchOptions) -> None:
        """Waits until the host may be asked; raises _FetchError if that is not worth it."""
        clock = asyncio.get_running_loop()
        quiet = self.quiet_until - clock.time()
        if self.failures >= options.max_host_failures or quiet >= visit.seconds:
            raise _FetchError(HOST_GAVE_UP)
        async with visit.spending():
            await asyncio.sleep(max(0.0, quiet))
        turn = max(clock.time(), self.next_turn)
        self.next_turn = turn + 1 / options.per_host_rate
        await asyncio.sleep(turn - clock.time())

    def saw(self, failure: _FetchError | None) -> None:
        """Counts failures in a row; any answer but "busy" shows that the host is well."""
        if failure is None or (failure.status is not None and failure.status not in BUSY):
            self.failures = 0
        elif failure.passing or failure.reason == TIMED_OUT:
            self.failures += 1
        if failure is not None and failure.after is not None:
            until = asyncio.get_running_loop().time() + failure.after
            self.quiet_until = max(self.quiet_until, until)


@dataclass(frozen=True)
class _Call:
    """What the URLs of one `fetch_all` share."""

    options: FetchOptions
    session: aiohttp.ClientSession
    gate: asyncio.Semaphore
    hosts: dict[str, _Host] = field(default_factory=dict)
    robots: dict[URL, asyncio.Task[Protego | str]] = field(default_factory=dict)

    def host(self, url: URL) -> _Host:
        """The one record of `url`'s host, whatever the port."""
        slots = asyncio.Semaphore(self.options.per_host_concurrency)
        return self.hosts.setdefault(url.raw_host or "", _Host(slots))


@dataclass(frozen=True)
class _Response:
    body: bytes
    status: int
    content_type: str | None
    location: str | None = None


def fetch_all(
    urls: Sequence[str],
    options: FetchOptions,
    on_done: Callable[[int], None] | None = None,
) -> list[Fetched]:
    """Downloads `urls`; the results are in their order, whatever the order of arrival.

    A URL that is there twice is asked once. `on_done` is told how many of `urls` have ended, each
    time that one does. Must not be called inside a running event loop (RuntimeError).
    """
    return asyncio.run(_fetch_all(urls, options, on_done))


async def _fetch_all(
    urls: Sequence[str], options: FetchOptions, on_done: Callable[[int], None] | None
) -> list[Fetched]:
    # Names are looked up in threads, and the default pool has a handful of them.
    pool = ThreadPoolExecutor(max_workers=options.concurrency, thread_name_prefix="dns")
    asyncio.get_running_loop().set_default_executor(pool)
    copies = Counter(urls)
    async with _session(options) as session:
        call = _Call(options, session, asyncio.Semaphore(options.concurrency))
        tasks = [asyncio.create_task(_fetch(call, url)) for url in copies]
        ended, results = 0, {}
        for task in asyncio.as_completed(tasks):
            fetched = await task
            results[fetched.url] = fetched
            ended += copies[fetched.url]
            if on_done is not None:
                on_done(ended)
    return [results[url] for url in urls]


def _session(options: FetchOptions) -> aiohttp.ClientSession:
    """A session with no cookies, no proxy and none of aiohttp's own limits in the way of ours."""
    resolver = PublicResolver(aiohttp.ThreadedResolver(), options.connect_to)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=resolver, limit=0, ttl_dns_cache=300),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        # A compressed body could grow without bound; `_inflate` undoes what comes anyway.
        headers={"User-Agent": options.user_agent, "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )


async def _fetch(call: _Call, url: str) -> Fetched:
    """The end of one URL; every failure becomes its reason."""
    visit = _Visit(URL(), call.options.total_seconds)
    try:
        visit.url = _parsed(url)
        response = await _with_retries(call, visit, call.options.max_bytes, polite=True)
    except _FetchError as failure:
        at = str(visit.url) or None
        return Fetched(url, reason=failure.reason, status=failure.status, final_url=at)
    return Fetched(
        url,
        response.body,
        content_type=response.content_type,
        status=response.status,
        final_url=str(visit.url),
    )


def _parsed(url: str, base: URL | None = None) -> URL:
    """`url`, relative to `base`, without credentials and fragment, if it is http or https."""
    try:
        parsed = URL(url.strip()) if base is None else base.join(URL(url.strip()))
        parsed = parsed.with_user(None).with_fragment(None)
    except (ValueError, IndexError) as error:  # IndexError: yarl, of "http://[]@"
        raise _FetchError(BAD_URL) from error
    if parsed.scheme not in ("http", "https") or not parsed.raw_host:
        raise _FetchError(BAD_URL)
    return parsed


async def _with_retries(call: _Call, visit: _Visit, limit: int, polite: bool) -> _Response:
    """Follows the visit's URL, again after a passing failure while tries and time are left."""
    start = visit.url
    for attempt in range(call.options.retries + 1):
        visit.url = start
        try:
            return await _follow(call, visit, limit, polite)
        except _FetchError as failure:
            wait = _backoff(call.options, str(start), attempt)
            wait = wait if failure.after is None else max(wait, failure.after)
            last = attempt == call.options.retries or wait >= visit.seconds
            if last or not failure.passing:
                raise
        async with visit.spending():
            await asyncio.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _backoff(options: FetchOptions, url: str, attempt: int) -> float:
    """Seconds before the next try: doubling, times a factor in [0.5, 1.5) from a hash."""
    jitter = int(digest(url, str(attempt))[:8], 16) / 2**32
    return options.backoff_seconds * float(2**attempt) * (0.5 + jitter)


async def _follow(call: _Call, visit: _Visit, limit: int, polite: bool) -> _Response:
    """The response at the end of the redirects; `polite` asks robots.txt and opt-out headers.

    robots.txt itself is read with `polite` off, and cut at `limit` bytes instead of refused.
    """
    for _ in range(call.options.max_redirects + 1):
        if polite and call.options.respect_robots:
            await _ask_robots(call, visit.url)
        response = await _ask(call, visit, limit, polite)
        if response.location is None:
            return response
        visit.url = _parsed(response.location, visit.url)
    raise _FetchError(TOO_MANY_REDIRECTS)


async def _ask(call: _Call, visit: _Visit, limit: int, polite: bool) -> _Response:
    """One request in the host's turn, its errors told as `_FetchError`."""
    host = call.host(visit.url)
    async with host.slots:
        try:
            await host.take_turn(visit, call.options)
            async with call.gate, visit.spending():
                response = await _request(call, visit.url, limit, polite)
        except _FetchError as failure:
            host.saw(failure)
            raise
        except KNOWN_ERRORS as error:
            told = _told(error)
            host.saw(told)
            raise told from error
        host.saw(None)
        return response


def _told(error: Exception) -> _FetchError:
    reason, passing = next((r, p) for kind, r, p in FAILURES if isinstance(error, kind))
    return _FetchError(reason, passing=passing)


async def _request(call: _Call, url: URL, limit: int, polite: bool) -> _Response:
    """One request; refusals are read from the head, and the body is left unread."""
    check_literal(url.raw_host or "", url.port or 0, call.options.connect_to)
    async with call.session.get(url, allow_redirects=False) as response:
        if response.status in REDIRECTS and "Location" in response.headers:
            response.close()
            return _Response(b"", response.status, None, response.headers["Location"])
        refusal = _refusal(response, call.options, limit, polite)
        if refusal is not None:
            response.close()
            raise refusal
        body = await _body(response, limit, whole=polite)
        return _Response(body, response.status, response.headers.get("Content-Type"))


def _refusal(
    response: aiohttp.ClientResponse, options: FetchOptions, limit: int, polite: bool
) -> _FetchError | None:
    """Why the body of `response` is not to be read, by its head alone."""
    status = response.status
    if not 200 <= status < 300:
        reason = {404: HTTP_404, 410: HTTP_410}.get(status, HTTP_STATUS)
        after = _retry_after(response.headers.get("Retry-After")) if status in BUSY else None
        return _FetchError(reason, status, status in PASSING, after)
    tags = response.headers.getall("X-Robots-Tag", [])
    if polite and opts_out(tags, _product(options.user_agent), options.opt_out_headers):
        return _FetchError(OPT_OUT_HEADER, status)
    if polite and (response.content_length or 0) > limit:
        return _FetchError(TOO_LARGE, status)
    return None


def _product(user_agent: str) -> str:
    """The product token that robots.txt and X-Robots-Tag call us by (RFC 9309, section 2.2.1)."""
    return user_agent.split("/")[0].split(" ")[0].lower()


def opts_out(tags: Iterable[str], agent: str, directives: Sequence[str]) -> bool:
    """Whether X-Robots-Tag headers hold one of `directives` for everyone or for `agent`.

    An agent's name and a colon before a directive limit it, and those after it in the same
    header, to that agent; `none` stands for `noindex, nofollow`.
    """
    refused = {directive.lower() for directive in directives}
    refused |= {"none"} if "noindex" in refused else set()
    return any(refused & _directives(tag, agent) for tag in tags)


def _directives(tag: str, agent: str) -> set[str]:
    """The directives of one X-Robots-Tag header that are meant for `agent`."""
    addressee, found = "*", set()
    for item in tag.lower().split(","):
        name, colon, rest = item.partition(":")
        if colon and name.strip() not in VALUED_DIRECTIVES:
            addressee, item = name.strip(), rest
        if addressee in ("*", agent):
            found.add(item.strip())
    return found


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, a number or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


async def _body(response: aiohttp.ClientResponse, limit: int, whole: bool) -> bytes:
    """The body, decompressed; past `limit` bytes it is too large if `whole`, else cut there."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        body += chunk
        if len(body) > limit:
            break
    data = _inflate(bytes(body), response.headers.get("Content-Encoding", ""), limit)
    if whole and max(len(data), len(body)) > limit:
        response.close()
        raise _FetchError(TOO_LARGE, response.status)
    return data[:limit]


def _inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a body that was compressed although we asked for none."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        return zlib.decompressobj(wbits=47).decompress(body, limit + 1)
    except zlib.error as error:
        raise _FetchError(TRUNCATED_BODY, passing=True) from error


async def _ask_robots(call: _Call, url: URL) -> None:
    """Raises _FetchError if robots.txt refuses `url` or could not be read."""
    origin = url.origin()
    if origin not in call.robots:
        call.robots[origin] = asyncio.create_task(_robots(call, origin))
    rules = await asyncio.shield(call.robots[origin])
    if isinstance(rules, str):
        raise _FetchError(rules)
    if not rules.can_fetch(str(url), _product(call.options.user_agent)):
        raise _FetchError(REFUSED_BY_ROBOTS)


async def _robots(call: _Call, origin: URL) -> Protego | str:
    """The rules of `origin`, or the reason why none of its URLs may be asked.

    RFC 9309, section 2.3.1: without a robots.txt (4xx) everything is allowed; with one that the
    server fails to give (5xx, too slow, and 429, as Google's crawler has it), nothing is.
    """
    visit = _Visit(origin.with_path("/robots.txt"), call.options.total_seconds / 2)
    try:
        response = await _with_retries(call, visit, ROBOTS_BYTES, polite=False)
    except _FetchError as failure:
        return _robots_failure(failure)
    return Protego.parse(response.body.decode("utf-8-sig", errors="replace"))


def _robots_failure(failure: _FetchError) -> Protego | str:
    """Everything allowed, or a reason: the host's own where the URL would meet it too."""
    absent = failure.status is not None and 400 <= failure.status < 500
    if failure.reason == TOO_MANY_REDIRECTS or (absent and failure.status != 429):
        return Protego.parse("")
    if failure.status is None and failure.reason not in (TIMED_OUT, TRUNCATED_BODY):
        return failure.reason
    return REFUSED_BY_ROBOTS
