"""A downloader for URLs that come from strangers: polite to hosts, bounded, and closed inwards.

Every URL ends as a `Fetched` with a body or with one of the reasons below. Nothing is retried
that a site refused, and no address outside the public internet is opened (`addresses`).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from pipelines.fetching import robots
from pipelines.fetching.addresses import (
    PrivateAddressError,
    PublicResolver,
    check_literal,
    endpoint,
    literal,
)
from pipelines.fetching.inflate import DamagedBodyError, UnknownCodingError, inflate
from shards.schema import digest

REFUSED_BY_ROBOTS = "refused_by_robots"
ROBOTS_UNAVAILABLE = "robots_unavailable"  # there is a robots.txt, but the host fails to give it
OPT_OUT_HEADER = "opt_out_header"
PRIVATE_ADDRESS = "private_address"
HTTP_404 = "http_404"
HTTP_410 = "http_410"
HTTP_LATER = "http_try_later"  # 408, 425, 429
HTTP_5XX = "http_5xx"
HTTP_STATUS = "http_status"
TOO_LARGE = "too_large"
TIMED_OUT = "timed_out"
TOO_MANY_REDIRECTS = "too_many_redirects"
CONNECTION_FAILED = "connection_failed"
BAD_URL = "bad_url"
BAD_RESPONSE = "bad_response"  # no HTTP, or a head beyond aiohttp's bounds: 128 lines of 8 KiB
TRUNCATED_BODY = "truncated_body"
UNKNOWN_ENCODING = "unknown_encoding"
TLS_FAILED = "tls_failed"
DNS_FAILED = "dns_failed"
HOST_GAVE_UP = "host_gave_up"  # not asked: the host failed too often, or told us to stay away

REDIRECTS = frozenset({301, 302, 303, 307, 308})
BUSY = frozenset({429, 503})
LATER = frozenset({408, 425, 429})
PASSING = LATER | {500, 502, 503, 504}  # statuses that another try may cure
ROBOTS_BYTES = 512 * 1024  # RFC 9309, section 2.5, asks for 500 KiB at least
# Of robots.txt that are remembered, and for what each costs besides; read, they take fifty times
# as much memory.
ROBOTS_MEMORY, ROBOTS_OVERHEAD = 4 << 20, 1024
CHUNK_BYTES = 64 * 1024
FREE_BYTES = 256 * 1024  # of a body, before it has to ask for memory


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
    max_crawl_delay: float = 30.0  # seconds between requests that a robots.txt may ask for
    # Of bodies held together, beyond the first 256 KiB of each; at least two of `max_bytes`.
    held_bytes: int = 256_000_000
    max_host_failures: int = 20  # in a row; the host's other URLs are then not asked
    user_agent: str = "mixwright/0.1 (+https://github.com/mixwright/mixwright)"
    respect_robots: bool = True
    opt_out_headers: Sequence[str] = ("noai", "noimageai", "noindex", "noimageindex", "noml")
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


# The first class that fits names the reason; `passing` says whether to try again at once.
FAILURES: tuple[tuple[type[Exception], str, bool], ...] = (
    (PrivateAddressError, PRIVATE_ADDRESS, False),
    (UnknownCodingError, UNKNOWN_ENCODING, False),
    (DamagedBodyError, TRUNCATED_BODY, True),
    (aiohttp.InvalidURL, BAD_URL, False),
    (aiohttp.ClientResponseError, BAD_RESPONSE, False),
    (aiohttp.ClientConnectorDNSError, DNS_FAILED, True),
    (aiohttp.ClientSSLError, TLS_FAILED, False),
    (aiohttp.ClientPayloadError, TRUNCATED_BODY, True),
    (TimeoutError, TIMED_OUT, False),
    (aiohttp.ClientError, CONNECTION_FAILED, True),
    (OSError, CONNECTION_FAILED, True),
    (ValueError, BAD_URL, False),
)
KNOWN_ERRORS = tuple(kind for kind, _, _ in FAILURES)

# The reasons that another run may not meet again. All others are what a host wants, or what the
# URL is.
TEMPORARY = frozenset(
    {
        ROBOTS_UNAVAILABLE,
        HTTP_LATER,
        HTTP_5XX,
        TIMED_OUT,
        CONNECTION_FAILED,
        TRUNCATED_BODY,
        DNS_FAILED,
        HOST_GAVE_UP,
    }
)


@contextmanager
def _told() -> Iterator[None]:
    """Tells known errors of a block as `_FetchError`."""
    try:
        yield
    except KNOWN_ERRORS as error:
        reason, passing = next((r, p) for kind, r, p in FAILURES if isinstance(error, kind))
        raise _FetchError(reason, passing=passing) from error


@dataclass
class _Memory:
    """Bytes that bodies may hold together; who asks for more than are free waits in a queue.

    A body asks at most once, before it holds anything but its first `FREE_BYTES`: so those that
    wait never keep from the others what these need to end.
    """

    free: int
    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)

    async def take(self, amount: int) -> None:
        """Returns when `amount` bytes are the caller's."""
        if not self.waiting and amount <= self.free:
            self.free -= amount
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((amount, turn))
        await turn

    def give(self, amount: int) -> None:
        """Gives `amount` bytes back, and the free ones to those at the head of the queue."""
        self.free += amount
        while self.waiting and self.waiting[0][0] <= self.free:
            wanted, turn = self.waiting.popleft()
            if not turn.cancelled():
                self.free -= wanted
                turn.set_result(None)


@dataclass
class _Visit:
    """Where a URL has got to, the seconds it may still spend, and what it holds of the bounds."""

    url: URL
    seconds: float
    gate: asyncio.Semaphore
    memory: _Memory
    timer: asyncio.Timeout | None = None
    inside: bool = False  # the gate
    held: int = 0  # bytes of the memory

    @asynccontextmanager
    async def spending(self) -> AsyncIterator[None]:
        """Takes what the block lasts from the seconds; TimeoutError once there are none left."""
        clock = asyncio.get_running_loop()
        start = clock.time()
        try:
            async with asyncio.timeout(self.seconds) as self.timer:
                yield
        finally:
            self.seconds -= clock.time() - start

    async def pause(self, waiting: Awaitable[None]) -> None:
        """Waits, inside of `spending`, for what is not the host's fault: no time is taken."""
        assert self.timer is not None
        clock, deadline = asyncio.get_running_loop(), self.timer.when()
        assert deadline is not None
        start = clock.time()
        self.timer.reschedule(None)
        await waiting
        waited = clock.time() - start
        self.seconds += waited
        self.timer.reschedule(deadline + waited)

    async def enter(self) -> None:
        """Waits for a place among the requests that may be under way."""
        await self.gate.acquire()
        self.inside = True

    async def hold(self, amount: int) -> None:
        """Waits for memory."""
        await self.pause(self.memory.take(amount))
        self.held += amount

    def keep(self, amount: int) -> None:
        """Gives memory back but for `amount` bytes."""
        spare = max(0, self.held - amount)
        self.held -= spare
        self.memory.give(spare)

    def leave(self) -> None:
        """Gives everything back that is held."""
        self.keep(0)
        if self.inside:
            self.gate.release()
        self.inside = False


@dataclass
class _Host:
    """What we owe one host: a bound on requests at once, and the time of the next one."""

    slots: asyncio.Semaphore
    interval: float  # seconds between requests
    next_turn: float = 0.0
    quiet_until: float = 0.0
    failures: int = 0  # in a row

    async def take_turn(self, visit: _Visit, options: FetchOptions) -> None:
        """Waits until the host may be asked; raises _FetchError if that is not worth it."""
        clock = asyncio.get_running_loop()
        turn = max(clock.time(), self.next_turn)
        self.next_turn = turn + self.interval
        await asyncio.sleep(turn - clock.time())
        quiet = self.quiet_until - clock.time()
        if self.failures >= options.max_host_failures or quiet >= visit.seconds:
            raise _FetchError(HOST_GAVE_UP)
        async with visit.spending():
            await asyncio.sleep(max(0.0, quiet))

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
class Fetcher:
    """What the URLs of a download share: connections, what is known of hosts, and the bounds."""

    options: FetchOptions
    session: aiohttp.ClientSession
    gate: asyncio.Semaphore
    memory: _Memory
    hosts: dict[str, _Host] = field(default_factory=dict)
    # Rules or the reason why there are none; the last used one is the last.
    rules: dict[URL, asyncio.Task[robots.Rules | str]] = field(default_factory=dict)

    @asynccontextmanager
    async def fetched(self, url: str) -> AsyncIterator[Fetched]:
        """How one URL ends; its body is held, and its place taken, until the block ends."""
        async with self.visit(URL(), self.options.total_seconds) as visit:
            yield await _fetch(self, visit, url)

    @asynccontextmanager
    async def visit(self, url: URL, seconds: float) -> AsyncIterator[_Visit]:
        """A visit that gives back what it holds."""
        visit = _Visit(url, seconds, self.gate, self.memory)
        try:
            yield visit
        finally:
            visit.leave()

    def host(self, url: URL) -> _Host:
        """The one record of `url`'s host, whatever the port."""
        name = url.raw_host or ""
        if name not in self.hosts:
            slots = asyncio.Semaphore(self.options.per_host_concurrency)
            self.hosts[name] = _Host(slots, 1 / self.options.per_host_rate)
        return self.hosts[name]


@dataclass(frozen=True)
class _Response:
    body: bytes
    status: int
    content_type: str | None
    location: str | None = None


@asynccontextmanager
async def fetcher(options: FetchOptions) -> AsyncIterator[Fetcher]:
    """Opens what a download needs; what it learns of hosts lasts as long as the block."""
    # Names are looked up in threads, and the default pool has a handful of them.
    pool = ThreadPoolExecutor(max_workers=options.concurrency, thread_name_prefix="dns")
    asyncio.get_running_loop().set_default_executor(pool)
    memory = _Memory(max(options.held_bytes, 2 * options.max_bytes))
    async with _session(options) as session:
        yield Fetcher(options, session, asyncio.Semaphore(options.concurrency), memory)


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


async def _fetch(call: Fetcher, visit: _Visit, url: str) -> Fetched:
    """The end of one URL; every failure becomes its reason."""
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


async def _with_retries(call: Fetcher, visit: _Visit, limit: int, polite: bool) -> _Response:
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


async def _follow(call: Fetcher, visit: _Visit, limit: int, polite: bool) -> _Response:
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


async def _ask(call: Fetcher, visit: _Visit, limit: int, polite: bool) -> _Response:
    """One request in the host's turn, its errors told as `_FetchError`.

    What the visit holds is given back, unless there is a body in it.
    """
    host = call.host(visit.url)
    async with host.slots:
        try:
            with _told():
                await host.take_turn(visit, call.options)
                await visit.enter()
                async with visit.spending():
                    response = await _request(call, visit, limit, polite)
        except _FetchError as failure:
            host.saw(failure)
            visit.leave()
            raise
        host.saw(None)
    if response.location is not None:
        visit.leave()
    return response


async def _request(call: Fetcher, visit: _Visit, limit: int, polite: bool) -> _Response:
    """One request; refusals are read from the head, and the body is left unread."""
    url = visit.url
    check_literal(url.raw_host or "", url.port or 0, call.options.connect_to)
    async with call.session.get(url, allow_redirects=False) as response:
        if response.status in REDIRECTS and "Location" in response.headers:
            response.close()
            return _Response(b"", response.status, None, response.headers["Location"])
        refusal = _refusal(response, call.options, limit, polite)
        if refusal is not None:
            response.close()
            raise refusal
        body = await _body(visit, response, limit, whole=polite)
        return _Response(body, response.status, response.headers.get("Content-Type"))


def _refusal(
    response: aiohttp.ClientResponse, options: FetchOptions, limit: int, polite: bool
) -> _FetchError | None:
    """Why the body of `response` is not to be read, by its head alone."""
    status = response.status
    if not 200 <= status < 300:
        after = _retry_after(response.headers.get("Retry-After")) if status in BUSY else None
        return _FetchError(_status_reason(status), status, status in PASSING, after)
    tags = response.headers.getall("X-Robots-Tag", [])
    if polite and robots.opts_out(
        tags, robots.product(options.user_agent), options.opt_out_headers
    ):
        return _FetchError(OPT_OUT_HEADER, status)
    if polite and (response.content_length or 0) > limit:
        return _FetchError(TOO_LARGE, status)
    return None


def _status_reason(status: int) -> str:
    """The reason that a status without a body to read stands for."""
    if status in LATER:
        return HTTP_LATER
    if 500 <= status < 600:
        return HTTP_5XX
    return {404: HTTP_404, 410: HTTP_410}.get(status, HTTP_STATUS)


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


async def _body(visit: _Visit, response: aiohttp.ClientResponse, limit: int, whole: bool) -> bytes:
    """The body, decompressed; past `limit` bytes it is too large if `whole`, else cut there.

    Memory is asked for once: for the length that is stated; for `limit` when a body of none goes
    on after `FREE_BYTES`; for twice that if it is compressed, since the result comes beside it.
    """
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    stated, plain = min(response.content_length or 0, limit), coding in ("", "identity")
    if not plain or stated > FREE_BYTES:
        await visit.hold(stated if plain else 2 * limit)
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        body += chunk
        if len(body) > limit:
            break
        if len(body) > FREE_BYTES and not visit.held:
            await visit.hold(limit)
    data = bytes(body) if plain else inflate(bytes(body), coding, limit)
    if whole and max(len(data), len(body)) > limit:
        response.close()
        raise _FetchError(TOO_LARGE, response.status)
    visit.keep(len(data))
    return data[:limit]


async def _ask_robots(call: Fetcher, url: URL) -> None:
    """Raises _FetchError if robots.txt refuses `url` or could not be read."""
    origin = url.origin()
    task = call.rules.pop(origin, None)
    if task is None:
        _forget_robots(call)
        task = asyncio.create_task(_robots(call, origin))
    call.rules[origin] = task
    rules = await asyncio.shield(task)
    if isinstance(rules, str):
        raise _FetchError(rules)
    if not rules.allow(str(url)):
        raise _FetchError(REFUSED_BY_ROBOTS)


def _forget_robots(call: Fetcher) -> None:
    """Drops the robots.txt that were used longest ago, to remember no more than there is room."""
    known = {origin: task.result() for origin, task in call.rules.items() if task.done()}
    sizes = {origin: ROBOTS_OVERHEAD + getattr(rules, "size", 0) for origin, rules in known.items()}
    excess = sum(sizes.values()) - ROBOTS_MEMORY
    for origin, size in sizes.items():
        if excess > 0:
            excess -= size
            del call.rules[origin]


async def _robots(call: Fetcher, origin: URL) -> robots.Rules | str:
    """The rules of `origin`, or the reason why none of its URLs may be asked.

    RFC 9309, section 2.3.1: without a robots.txt (4xx) everything is allowed; with one that the
    server fails to give (5xx, too slow, and 429, as Google's crawler has it), nothing is.
    """
    agent = robots.product(call.options.user_agent)
    async with call.visit(origin.with_path("/robots.txt"), call.options.total_seconds / 2) as visit:
        try:
            response = await _with_retries(call, visit, ROBOTS_BYTES, polite=False)
        except _FetchError as failure:
            reason = _robots_failure(failure)
            return robots.parse(b"", agent) if reason is None else reason
    rules = robots.parse(response.body, agent)
    host, delay = call.host(origin), min(rules.crawl_delay, call.options.max_crawl_delay)
    host.interval = max(host.interval, delay)
    return rules


def _robots_failure(failure: _FetchError) -> str | None:
    """None if everything is allowed, or a reason: the host's own where the URL would meet it."""
    absent = failure.status is not None and 400 <= failure.status < 500
    if failure.reason == TOO_MANY_REDIRECTS or (absent and failure.status != 429):
        return None
    if failure.status is None and failure.reason not in (TIMED_OUT, TRUNCATED_BODY):
        return failure.reason
    return ROBOTS_UNAVAILABLE
