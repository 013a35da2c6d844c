"""Downloads URLs in a process of its own, and tells how each ended and what it took.

    python -m tests.pipelines.fetching.hostile_child FOLDER < {"urls": [...], "options": {...}}

prints {"reasons": {URL: reason or null}, "peak": bytes}. The name `rebound.example` has a public
address when it is first looked up and a private one from then on; connections to public addresses
fail, since there is no network.
"""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp.connector
import pyarrow as pa

from pipelines.fetching.batches import Target, chains, fetch_partition, in_order
from pipelines.fetching.fetch import FetchOptions
from shards.images import Resize
from shards.storage import read_table

PUBLIC, PRIVATE = "93.184.216.34", "127.0.0.1"
lookup, connect = socket.getaddrinfo, aiohttp.connector.aiohappyeyeballs.start_connection
asked: list[str] = []


def getaddrinfo(host: Any, port: Any, *given: Any, **named: Any) -> Any:
    if host != "rebound.example":
        return lookup(host, port, *given, **named)
    asked.append(host)
    address = PUBLIC if len(asked) == 1 else PRIVATE
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


async def start_connection(addr_infos: Any, **named: Any) -> Any:
    if any(info[4][0] == PUBLIC for info in addr_infos):
        raise OSError("there is no network")
    return await connect(addr_infos, **named)


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def main() -> None:
    socket.getaddrinfo = getaddrinfo
    aiohttp.connector.aiohappyeyeballs.start_connection = start_connection  # type: ignore[assignment]
    given = json.load(sys.stdin)
    urls = pa.array(sorted(given["urls"]))
    order, hosts = in_order(urls)
    cut = chains(hosts, 10_000)
    options = FetchOptions(**given["options"])
    target = Target(Path(sys.argv[1]), "host-00000", options, Resize(378), 2**30)
    fetch_partition(urls.take(pa.array(order)), cut, target, lambda done: None)
    rows = [
        row for number in range(len(cut)) for row in read_table(target.index(number)).to_pylist()
    ]
    json.dump({"reasons": {row["url"]: row["reason"] for row in rows}, "peak": peak()}, sys.stdout)


if __name__ == "__main__":
    main()
