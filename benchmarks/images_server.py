"""A web of pictures on 64 loopback addresses, as slow, failing and refusing as the real one.

    python benchmarks/images_server.py FOLDER SECONDS PORT

serves the files of FOLDER, each under many URLs, at 127.0.1.1 to 127.0.1.64 and prints the port
when it listens (for 0, a free one); it ends when its standard input does. What a URL does is in its
path:

- `/ok/N.jpg` a picture, after a latency of its own: log-normal, 30 ms in the middle, 0.2 s at most;
- `/missing/N.jpg` 404;
- `/busy/N.jpg` 503 with Retry-After: 1 until a second after it was first asked, then a picture;
- `/noai/N.jpg` a picture with `X-Robots-Tag: noai`;
- `/private/N.jpg` a picture that robots.txt disallows;
- `/drip/N.jpg` a byte every 0.1 s, for SECONDS;
- `/-/asked` how many of each kind were asked for, and since when, as JSON.
"""

import asyncio
import json
import math
import os
import sys
import threading
import time
from collections import Counter
from hashlib import blake2b
from pathlib import Path
from statistics import NormalDist

HOSTS = [f"127.0.1.{k}" for k in range(1, 65)]
ROBOTS = b"User-agent: *\nDisallow: /private/\n"
MEDIAN, SPREAD, SLOWEST = 0.03, 0.8, 0.2  # seconds of latency
PAUSE = 0.1  # seconds between the bytes of a drip


def share(*values: str) -> float:
    """A number in (0, 1) that belongs to some text."""
    digest = blake2b("/".join(values).encode(), digest_size=6).digest()
    return (int.from_bytes(digest) + 0.5) / 2**48


class Web:
    """The pictures, and what was asked for."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.drips = int(seconds / PAUSE)
        self.pictures = [path.read_bytes() for path in sorted(folder.iterdir())]
        self.first: dict[str, float] = {}
        self.asked: Counter[str] = Counter()
        self.begun = 0.0  # the first request, by the machine's clock

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection until it is closed."""
        try:
            while line := await reader.readline():
                while (await reader.readline()).strip():
                    pass
                await self.answer(line.split()[1].decode(), writer)
        except (ConnectionError, IndexError):
            pass
        finally:
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        kind = path.split("/")[1]
        if path == "/-/asked":
            told = {"asked": self.asked, "begun": self.begun}
            await self.send(writer, 200, json.dumps(told).encode())
            return
        self.begun = self.begun or time.monotonic()
        self.asked[kind] += 1
        await asyncio.sleep(latency(path))
        if path == "/robots.txt":
            await self.send(writer, 200, ROBOTS)
        elif kind == "missing":
            await self.send(writer, 404, b"")
        elif (
            kind == "busy" and time.monotonic() - self.first.setdefault(path, time.monotonic()) < 1
        ):
            await self.send(writer, 503, b"", "Retry-After: 1")
        elif kind == "drip":
            await self.drip(writer)
        else:
            more = ["X-Robots-Tag: noai"] if kind == "noai" else []
            await self.send(writer, 200, self.picture(path), *more)

    def picture(self, path: str) -> bytes:
        """The picture of a URL; its last bytes are its own, after the end of the image."""
        return self.pictures[int(share("picture", path) * len(self.pictures))] + path.encode()

    async def send(
        self, writer: asyncio.StreamWriter, status: int, body: bytes, *more: str
    ) -> None:
        """Send an answer."""
        kind = "Content-Type: image/jpeg"
        head = [f"HTTP/1.1 {status} -", f"Content-Length: {len(body)}", kind, *more]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()

    async def drip(self, writer: asyncio.StreamWriter) -> None:
        """Send a picture that is as good as never there."""
        writer.write(f"HTTP/1.1 200 -\r\nContent-Length: {self.drips}\r\n\r\n".encode())
        for _ in range(self.drips):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(PAUSE)


def latency(path: str) -> float:
    """Seconds before an answer begins."""
    normal = NormalDist().inv_cdf(share("latency", path))
    return min(SLOWEST, MEDIAN * math.exp(SPREAD * normal))


def end_with_stdin() -> None:
    """End the process at the end of its input, which is when its parent has gone."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


async def main(folder: Path, seconds: float, port: int) -> None:
    """Serve."""
    web = Web(folder, seconds)
    server = await asyncio.start_server(web.connected, HOSTS[0], port, backlog=512)
    port = server.sockets[0].getsockname()[1]
    others = [await asyncio.start_server(web.connected, h, port, backlog=512) for h in HOSTS[1:]]
    threading.Thread(target=end_with_stdin, daemon=True).start()
    print(port, flush=True)
    await asyncio.gather(*(each.serve_forever() for each in (server, *others)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
