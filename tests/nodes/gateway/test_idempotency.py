import asyncio
import re

import pytest

from nodes.client.generation import SEED_BITS
from nodes.gateway.answers import Delta, ScoredToken
from nodes.gateway.errors import ApiError
from nodes.gateway.event_ids import Told
from nodes.gateway.idempotency import Keyed, KeyedRequests, of_headers
from tests.nodes.gateway.fake_mesh import Clock, Eventually, scored

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
    tags = {KEYED.tag(PATH, b"{}"), KEYED.tag(PATH, b"[]"), KEYED.tag("/v1/x", b"{}")}
    assert len(tags | {each.tag(PATH, b"{}") for each in others}) == 3 + len(others)


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


async def test_a_second_one_while_the_first_is_under_way_is_refused() -> None:
    requests = KeyedRequests()
    async with requests.entered(KEYED, PATH, b"a", Connection()):
        with pytest.raises(ApiError, match="under way") as caught:
            await use(requests, b"a")
        assert (caught.value.status, caught.value.code) == (409, "request_in_progress")
        assert caught.value.headers()["retry-after"] == "1"
        # Another body has no chance later, either.
        with pytest.raises(ApiError, match="another body"):
            await use(requests, b"b")
        async with requests.entered(Keyed("bob", "k"), PATH, b"b", Connection()):
            pass
    await use(requests, b"a")


@pytest.mark.parametrize("takes_over", [False, True])
async def test_who_has_lost_its_reader_is_waited_for(
    takes_over: bool, eventually: Eventually
) -> None:
    """Because its client has hung up, or goes on from an event of it elsewhere."""
    requests = KeyedRequests()
    connection, order = Connection(), list[str]()

    async def first() -> None:
        async with requests.entered(KEYED, PATH, b"a", connection):
            order.append("in")
            await connection.has_left.wait()
            order.append("out")

    async def second() -> None:
        async with requests.entered(KEYED, PATH, b"a", Connection(), takes_over=takes_over):
            order.append("second")

    task = asyncio.create_task(first())
    await eventually(lambda: order)
    with pytest.raises(ApiError, match="under way"):
        await use(requests, b"a")
    if not takes_over:
        connection.abort()
    await second()
    await task
    assert order == ["in", "out", "second"]


# -- ids of events ---------------------------------------------------------------------------------

TAG = "0123456789ab"
TOKEN = ScoredToken(scored("x", -1.0))


def event_id(line: bytes) -> bytes:
    found = re.fullmatch(rb"id: (\S+)\n", line)
    assert found is not None
    return found[1]


def test_choices_have_positions_of_their_own() -> None:
    told = Told(TAG, 3)
    assert event_id(told.line(1, "ab", 2)) == b"0123456789ab:-,2.2.9e83486d,-"
    # What the text was made by is told, once it is known.
    told.fingerprint = "fp_01234567_3fa9c1d2~a1b2c3d4"
    more = event_id(told.line(0, "c", ends=True))
    made_by = b"@fp_01234567_3fa9c1d2~a1b2c3d4"
    assert more == b"0123456789ab" + made_by + b":1.0.06b9df6f.end,2.2.9e83486d,-"
    assert Told.of_header(more.replace(made_by, b""), TAG, 3).fingerprint == ""
    resumed = Told.of_header(more, TAG, 3)
    assert resumed.fingerprint == told.fingerprint
    assert resumed.rest(Delta(0, "c", (), True, "stop")).is_empty
    new = Delta(2, "z", (), True)
    assert resumed.rest(new) == new
    assert resumed.rest(Delta(1, "abd", (TOKEN,) * 3, True)) == Delta(
        1, "d", (TOKEN,), False, None, (TOKEN,) * 2
    )


@pytest.mark.parametrize(
    "found",
    [
        b"",
        b"0123456789ab:",
        b"0123456789ab:1.0.06b9df6f,-",
        b"0123456789ac:1.0.06b9df6f",
        b"0123456789ab:1.0.06b9df6",
        b"0123456789ab:-1.0.06b9df6f",
        b"0123456789ab@fp_a:1.0.06b9df6f",
        b"0123456789ab@x:1.0.06b9df6f",
        b"0123456789ac@fp_a_b:1.0.06b9df6f",
        b"0123456789ab:1.0.06B9DF6F",
        b"0123456789ab:99999999999.0.06b9df6f",
        "0123456789ab:\u0661.0.06b9df6f".encode(),
        b"0123456789ab:1.0.06b9df6f" + b"," * 10_000,
        b"\xff\x00",
    ],
)
def test_what_is_no_id_of_the_request_is_refused(found: bytes) -> None:
    with pytest.raises(ApiError, match="Last-Event-ID") as caught:
        Told.of_header(found, TAG, 1)
    assert (caught.value.status, caught.value.param) == (400, "Last-Event-ID")


@pytest.mark.parametrize(
    ("deltas", "has_ended"),
    [
        ([Delta(0, "aX", (), True), Delta(0, "c", (), False, "stop")], False),
        ([Delta(0, "a", (), True, "stop")], False),
        ([Delta(0, "", (), True, "stop")], False),
        ([Delta(0, "abc", (), True)], True),
    ],
    ids=["other text", "shorter", "none", "goes on after its end"],
)
def test_another_text_is_noticed_before_any_of_it_is_told(
    deltas: list[Delta], has_ended: bool
) -> None:
    line = Told(TAG, 1).line(0, "ab", ends=has_ended)
    resumed = Told.of_header(event_id(line), TAG, 1)
    with pytest.raises(ApiError, match="cannot be generated again") as caught:
        [resumed.rest(delta) for delta in deltas]
    assert (caught.value.status, caught.value.code) == (412, "text_differs")
