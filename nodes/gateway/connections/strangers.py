"""Limits the connections of one address that have not shown a valid API key. Pure."""

from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

# The version of IP and the first bits of an address. Connections that share it count together.
Origin = tuple[int, int]
# What a host commonly gets of IPv6. It may use any address of it.
_IPV6_BITS = 64


def networks(names: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Addresses and networks. Raises ValueError."""
    return tuple(ip_network(name) for name in names)


class Strangers:
    """Counts connections by the address from which they come.

    most: the number of strangers' connections of an address. trusted: addresses without a limit,
    such as those of proxies; loopback has none either.
    """

    def __init__(self, most: int, trusted: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        self.most = most
        self._trusted = tuple(trusted)
        self._counts = Counter[Origin]()

    def origin(self, host: str) -> Origin | None:
        """What is counted for this address; None if it has no limit."""
        try:
            address = ip_address(host)
        except ValueError:
            return None
        if isinstance(address, IPv6Address):
            address = address.ipv4_mapped or address
        if address.is_loopback or any(address in network for network in self._trusted):
            return None
        bits = int(address)
        return address.version, bits >> _IPV6_BITS if address.version == 6 else bits

    def enter(self, origin: Origin) -> int:
        """Count a connection, and return by how many its address is over the limit."""
        self._counts[origin] += 1
        return self._counts[origin] - self.most

    def leave(self, origin: Origin) -> None:
        """A connection has ended, or has shown a valid key."""
        self._counts[origin] -= 1
        if not self._counts[origin]:
            del self._counts[origin]
