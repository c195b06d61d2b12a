from mesh.pauses import PauseState


def test_a_look_at_the_expected_time_is_no_pause():
    pauses = PauseState()
    assert pauses.looked(100.0, 0.5) == 0.0, "nothing to compare with"
    assert pauses.looked(100.5, 0.5) == 0.0
    assert pauses.looked(101.2, 0.5) == 0.0, "a busy loop"
    assert pauses.looked(101.3, 0.5) == 0.0, "sooner than asked"


def test_a_pause_is_what_is_longer_than_asked_and_is_told_once():
    pauses = PauseState()
    pauses.looked(0.0, 0.0)
    assert pauses.looked(5.5, 0.5) == 5.0
    assert pauses.looked(6.0, 0.5) == 0.0
