"""Which network addresses a downloader may open, and the resolver that holds it to that."""

import ipaddress
import socket
from collections.abc import Mapping

from aiohttp.abc import AbstractResolver, ResolveResult

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Endpoint = tuple[str, int]  # an IP address and a port

NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address behind a translator
# Special by the IANA registries, but global to the `ipaddress` of some Python releases; and one
# that is public by its number, while a machine's own cloud platform answers there (Azure's).
SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in ("192.0.0.0/24", "192.88.99.0/24", "64:ff9b:1::/48", "168.63.129.16/32")
)


class PrivateAddressError(Exception):
    """A host that stands for no public address."""


def is_public(address: str) -> bool:
    """Whether `address` (IPv4 or IPv6, as text) belongs to the public internet.

    Private, loopback, link-local, shared (CGNAT), multicast, reserved and unspecified addresses
    do not, by the IANA special-purpose registries (RFC 6890), nor does an IPv6 address that
    carries such an IPv4 address. Raises ValueError for text that is no address.
    """
    ip = _embedded(ipaddress.ip_address(address))
    site_local = isinstance(ip, ipaddress.IPv6Address) and ip.is_site_local
    special = site_local or any(ip in network for network in SPECIAL)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or special)


def _embedded(ip: Address) -> Address:
    """The IPv4 address inside a mapped, 6to4 or NAT64 address, else the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def literal(host: str) -> str | None:
    """The address that `host` spells, or None for a name.

    The C library also reads `127.1`, `0x7f000001`, `017700000001` and `2130706433` as 127.0.0.1.
    """
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, UnicodeEncodeError):
        return None


def endpoint(text: str) -> Endpoint:
    """`ADDRESS:PORT` or `[ADDRESS]:PORT` as a pair; raises ValueError for anything else."""
    host, _, port = text.rpartition(":")
    address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    return str(address), int(port)


def routed(host: str, routes: Mapping[str, str]) -> Endpoint | None:
    """Where `routes` sends `host`: its own entry, else the longest `*.suffix` that fits it."""
    name = host.lower().rstrip(".")
    labels = name.split(".")
    wildcards = ["*." + ".".join(labels[k:]) for k in range(1, len(labels))]
    found = next((routes[pattern] for pattern in (name, *wildcards) if pattern in routes), None)
    return None if found is None else endpoint(found)


def check_literal(host: str, port: int, routes: Mapping[str, str]) -> None:
    """Raises PrivateAddressError if `host` spells an address, not public, that no route opens.

    A spelled address is connected to without a resolver, so that a route can only open it as is.
    """
    address = literal(host)
    if address is None or routed(host, routes) == (address, port):
        return
    if not is_public(address):
        raise PrivateAddressError(host)


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only, or to where `routes` sends them.

    The connection is made to the addresses that are returned here, so that a name cannot answer
    with a public address when it is checked and with a private one when it is opened.
    """

    def __init__(self, lookup: AbstractResolver, routes: Mapping[str, str]) -> None:
        self.lookup = lookup
        self.routes = routes

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The public addresses of `host`.

        Raises PrivateAddressError if it has addresses and none is public, OSError if it has none.
        """
        if (route := routed(host, self.routes)) is not None:
            return [_result(host, *route)]
        found = await self.lookup.resolve(host, port, family)
        if not found:
            raise OSError(f"{host} has no address")
        public = [result for result in found if is_public(result["host"])]
        if not public:
            raise PrivateAddressError(host)
        return public

    async def close(self) -> None:
        """Closes the resolver that was wrapped."""
        await self.lookup.close()


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=0, flags=flags
    )
