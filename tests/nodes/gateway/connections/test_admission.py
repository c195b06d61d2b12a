import pytest

from airdraft.nodes.gateway.connections.admission import Admission
from airdraft.nodes.gateway.connections.strangers import Strangers
from tests.nodes.gateway.fake_mesh import Clock


def test_both_limits_hold_and_each_is_logged_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    admission = Admission(3, Strangers(2), clock)
    overs = [admission.enter("192.0.2.1", number)[1] for number in (1, 2, 3, 4)]
    assert [over > 0 for over in overs] == [False, False, True, True]
    assert admission.enter("127.0.0.1", 3)[1] <= 0
    assert admission.enter("127.0.0.1", 9)[1] == 6
    assert caplog.text.count("the limit is 3") == 1
    assert caplog.text.count("an address may have 2") == 1
    clock.now += 10
    admission.enter("192.0.2.1", 1)
    assert caplog.text.count("an address may have 2") == 2


def test_who_shows_a_key_is_no_stranger() -> None:
    admission = Admission(100, Strangers(1), Clock())
    origin, num_over = admission.enter("192.0.2.1", 1)
    assert origin is not None
    assert num_over <= 0
    admission.leave(origin)
    assert admission.enter("192.0.2.1", 2)[1] <= 0
    assert admission.enter("192.0.2.1", 3)[1] > 0
