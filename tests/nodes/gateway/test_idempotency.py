import asyncio

import pytest

from airdraft.nodes.client.generation import SEED_BITS
from airdraft.nodes.gateway.errors import ApiError
from airdraft.nodes.gateway.idempotency import Keyed, KeyedRequests, of_headers
from tests.nodes.gateway.fake_mesh import Clock, Eventually

KEYED = Keyed("ann", "k")
PATH = "/v1/completions"


@pytest.mark.parametrize(
    "found", [[b""], [b"~" * 256], [b"a b"], [b"\x7f"], [b"caf\xe9"], [b"a\t"], [b"a", b"b"]]
)
def test_only_visible_characters_are_a_key(found: list[bytes]) -> None:
    with pytest.raises(ApiError, match="Idempotency-Key: 1 to 255 visible") as caught:
        of_headers(found)
    assert (caught.value.status, caught.value.param) == (400, "Idempotency-Key")
    for key in (b"a", b'"8e03978e"', b"~" * 255, b"!"):
        assert of_headers([key]) == key.decode()
    assert of_headers([]) is None


def test_a_seed_follows_from_a_key() -> None:
    assert KEYED.seed < 2**SEED_BITS
    # Pinned: gateways of two versions must agree.
    assert Keyed("anybody", "k-1").seed == 5067787793619004


def test_nothing_else_has_the_same() -> None:
    # The last two would be one without the lengths of their parts.
    others = [Keyed("bob", "k"), Keyed("ann", "l"), Keyed("an", "nk"), Keyed("annk", "")]
    keyed = [KEYED, *others]
    assert len({each.seed for each in keyed}) == len(keyed)
    assert len({each.request_id("cmpl") for each in keyed}) == len(keyed)
    assert KEYED.request_id("cmpl").removeprefix("cmpl") != KEYED.request_id("x").removeprefix("x")


class Connection:
    """Open until its client leaves it or it is aborted."""

    def __init__(self) -> None:
        self.has_left = asyncio.Event()

    @property
    def is_closing(self) -> bool:
        return self.has_left.is_set()

    def abort(self) -> None:
        self.has_left.set()


async def use(
    requests: KeyedRequests, body: bytes, path: str = PATH, key: str = "k", owner: str = "ann"
) -> None:
    async with requests.entered(Keyed(owner, key), path, body, Connection()):
        pass


async def test_another_body_is_refused_as_long_as_the_first_is_remembered() -> None:
    clock = Clock()
    requests = KeyedRequests(clock=clock)
    await use(requests, b"a")
    await use(requests, b"a")
    for body, path in ((b"b", PATH), (b"a", "/v1/chat/completions")):
        with pytest.raises(ApiError, match="another body") as caught:
            await use(requests, body, path)
        assert (caught.value.status, caught.value.code) == (422, "key_reused")
    await use(requests, b"b", key="another")
    clock.now += 3599
    with pytest.raises(ApiError):
        await use(requests, b"b")
    clock.now += 1
    await use(requests, b"b")


async def test_so_many_bodies_are_remembered_and_no_more() -> None:
    requests = KeyedRequests(max_remembered=2, clock=Clock())
    for key in ("1", "2", "1", "3"):
        await use(requests, b"a", key=key)
    # The one that was not used for longest is forgotten.
    await use(requests, b"b", key="2")
    with pytest.raises(ApiError):
        await use(requests, b"b", key="3")


async def test_the_owner_that_has_the_most_loses_its_oldest() -> None:
    requests = KeyedRequests(max_remembered=4, clock=Clock())
    await use(requests, b"a", key="1")
    for number in range(20):
        await use(requests, b"a", key=str(number), owner="mallory")
    with pytest.raises(ApiError, match="another body"):
        await use(requests, b"b", key="1")
    for number in (18, 19):
        with pytest.raises(ApiError, match="another body"):
            await use(requests, b"b", key=str(number), owner="mallory")
    await use(requests, b"b", key="16", owner="mallory")


async def test_what_is_over_makes_room_before_anything_else_is_forgotten() -> None:
    clock = Clock()
    requests = KeyedRequests(max_remembered=4, clock=clock)
    for number in range(2):
        await use(requests, b"a", key=str(number), owner="gone")
    clock.now += 3600
    for number in range(4):
        await use(requests, b"a", key=str(number))
    with pytest.raises(ApiError, match="another body"):
        await use(requests, b"b", key="0")


async def test_who_asks_again_ends_the_request_that_has_lost_its_reader(
    eventually: Eventually,
) -> None:
    """Even if nothing says that its link is dead."""
    requests = KeyedRequests()
    connection, order = Connection(), list[str]()

    async def first() -> None:
        async with requests.entered(KEYED, PATH, b"a", connection):
            order.append("in")
            await connection.has_left.wait()
            order.append("out")

    task = asyncio.create_task(first())
    await eventually(lambda: order)
    # Another body or owner ends nothing.
    with pytest.raises(ApiError, match="another body"):
        await use(requests, b"b")
    await use(requests, b"b", owner="bob")
    assert order == ["in"]
    await use(requests, b"a")
    await task
    assert order == ["in", "out"]


async def test_a_request_that_does_not_end_keeps_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airdraft.nodes.gateway.idempotency._ENDING_LIMIT_S", 0.01)
    requests = KeyedRequests()
    async with requests.entered(KEYED, PATH, b"a", Connection()):
        with pytest.raises(ApiError, match="not ended yet") as caught:
            await use(requests, b"a")
    assert (caught.value.status, caught.value.code) == (409, "request_in_progress")
    assert caught.value.headers()["retry-after"] == "1"
    await use(requests, b"a")
