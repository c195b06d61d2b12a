from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from nodes.client.generation import SEED_BITS
from nodes.gateway.errors import ApiError
from nodes.gateway.idempotency import Keyed, KeyedRequests, of_headers

KEYED = Keyed("ann", "k")
PATH = "/v1/completions"


@pytest.mark.parametrize("found", [b"a", b'"8e03978e"', b"~" * 255, b"!"])
def test_visible_characters_are_a_key(found: bytes) -> None:
    assert of_headers([found]) == found.decode()


@pytest.mark.parametrize(
    "found", [[b""], [b"~" * 256], [b"a b"], [b"\x7f"], [b"caf\xe9"], [b"a\t"], [b"a", b"b"]]
)
def test_anything_else_is_none(found: list[bytes]) -> None:
    with pytest.raises(ApiError, match="Idempotency-Key: 1 to 255 visible") as caught:
        of_headers(found)
    assert (caught.value.status, caught.value.param) == (400, "Idempotency-Key")
    assert of_headers([]) is None


def test_what_follows_from_a_key_is_the_same_everywhere() -> None:
    again = Keyed("ann", "k")
    assert again.seed == KEYED.seed < 2**SEED_BITS
    assert again.request_id("cmpl") == KEYED.request_id("cmpl")
    assert again.tag(PATH, b"{}") == KEYED.tag(PATH, b"{}")
    # Pinned: gateways of two versions must agree.
    assert Keyed("anybody", "k-1").seed == 5067787793619004


def test_nothing_else_has_the_same() -> None:
    # The last two would be one without the lengths of their parts.
    others = [Keyed("bob", "k"), Keyed("ann", "l"), Keyed("an", "nk"), Keyed("annk", "")]
    keyed = [KEYED, *others]
    assert len({each.seed for each in keyed}) == len(keyed)
    assert len({each.request_id("cmpl") for each in keyed}) == len(keyed)
    assert KEYED.request_id("cmpl").removeprefix("cmpl") != KEYED.request_id("x").removeprefix("x")
    tags = {KEYED.tag(PATH, b"{}"), KEYED.tag(PATH, b"[]"), KEYED.tag("/v1/x", b"{}")}
    assert len(tags | {each.tag(PATH, b"{}") for each in others}) == 3 + len(others)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def never() -> bool:
    return False


async def use(requests: KeyedRequests, body: bytes, path: str = PATH, key: str = "k") -> None:
    async with requests.entered(Keyed("ann", key), path, body, never):
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


async def test_a_second_one_while_the_first_is_under_way_is_refused() -> None:
    requests = KeyedRequests()
    async with requests.entered(KEYED, PATH, b"a", never):
        with pytest.raises(ApiError, match="under way") as caught:
            await use(requests, b"a")
        assert (caught.value.status, caught.value.code) == (409, "request_in_progress")
        assert caught.value.headers()["retry-after"] == "1"
        # Another body has no chance later, either.
        with pytest.raises(ApiError, match="another body"):
            await use(requests, b"b")
        async with requests.entered(Keyed("bob", "k"), PATH, b"b", never):
            pass
    await use(requests, b"a")


async def test_who_goes_on_from_an_event_ends_the_one_that_has_lost_its_reader() -> None:
    requests = KeyedRequests()
    was_cut = asyncio.Event()
    order: list[str] = []

    async def first() -> None:
        entered = requests.entered(KEYED, PATH, b"a", was_cut.is_set, end=was_cut.set)
        async with entered:
            order.append("in")
            await was_cut.wait()
            order.append("out")

    task = asyncio.create_task(first())
    await asyncio.sleep(0)
    with pytest.raises(ApiError, match="under way"):
        await use(requests, b"a")
    async with requests.entered(KEYED, PATH, b"a", never, takes_over=True):
        order.append("second")
    await task
    assert order == ["in", "out", "second"]


async def test_who_has_hung_up_is_waited_for(
    eventually: Callable[..., asyncio.Future[None]],
) -> None:
    requests = KeyedRequests()
    release = asyncio.Event()
    order: list[str] = []

    async def first() -> None:
        async with requests.entered(KEYED, PATH, b"a", lambda: True):
            order.append("in")
            await release.wait()
            order.append("out")

    async def second() -> None:
        async with requests.entered(KEYED, PATH, b"a", never):
            order.append("second")

    tasks = [asyncio.create_task(first()), asyncio.create_task(second())]
    await eventually(lambda: order)
    assert not tasks[1].done()
    release.set()
    await asyncio.gather(*tasks)
    assert order == ["in", "out", "second"]


async def test_an_error_frees_the_key() -> None:
    requests = KeyedRequests()
    with pytest.raises(ValueError, match="why"):
        async with requests.entered(KEYED, PATH, b"a", never):
            raise ValueError("why")
    await use(requests, b"a")
