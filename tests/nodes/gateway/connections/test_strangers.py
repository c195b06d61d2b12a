import pytest

from airdraft.nodes.gateway.connections.strangers import Strangers, networks


def num_over(strangers: Strangers, *hosts: str) -> list[int]:
    """By how many each of these connections is over the limit; 0 or less is within it."""
    found = []
    for host in hosts:
        origin = strangers.origin(host)
        assert origin is not None
        found.append(strangers.enter(origin))
    return found


def test_each_address_has_its_own_limit() -> None:
    strangers = Strangers(2)
    assert num_over(strangers, "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2") == [-1, 0, 1, -1]


def test_who_leaves_makes_room() -> None:
    strangers = Strangers(1)
    assert num_over(strangers, "192.0.2.1", "192.0.2.1") == [0, 1]
    origin = strangers.origin("192.0.2.1")
    assert origin is not None
    strangers.leave(origin)
    strangers.leave(origin)
    assert num_over(strangers, "192.0.2.1") == [0]


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("::c000:201", "192.0.2.1", False),
    ],
)
def test_a_host_with_many_addresses_is_one(one: str, other: str, is_same: bool) -> None:
    strangers = Strangers(1)
    assert (strangers.origin(one) == strangers.origin(other)) == is_same


def test_this_machine_and_trusted_proxies_have_no_limit() -> None:
    strangers = Strangers(1, networks(["192.0.2.7", "2001:db8:7::/48"]))
    free = ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "192.0.2.7", "2001:db8:7:1::1", "")
    assert [strangers.origin(host) for host in free] == [None] * len(free)
    assert strangers.origin("192.0.2.8") is not None
