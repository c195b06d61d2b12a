"""When a node that ended is started again; tests/nodes/test_restarts.py starts some."""

from nodes.service.local import HEALTHY_S, WAITS_S, Restarts


def test_a_node_that_was_well_in_the_mesh_for_a_while_begins_anew() -> None:
    deaths = Restarts()
    waits = [deaths.ended(-9, 0.0, was_ready=True) for _ in range(3 * len(WAITS_S))]
    assert waits == [*WAITS_S, *WAITS_S[-1:] * 2 * len(WAITS_S)]
    deaths.joined(10.0)
    assert deaths.ended(-9, 10.0 + HEALTHY_S, was_ready=True) == WAITS_S[0]
    deaths.joined(100.0)
    assert deaths.ended(-9, 99.9 + HEALTHY_S, was_ready=True) == WAITS_S[1]
    # This one died while it was being loaded, however long that took.
    assert deaths.ended(-9, 10 * HEALTHY_S, was_ready=True) == WAITS_S[2]
