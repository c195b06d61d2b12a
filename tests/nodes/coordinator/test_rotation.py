"""The coordinator's next key: told once a change, and to everybody who comes in."""

from __future__ import annotations

import pytest

from mesh.errors import KeysError
from mesh.messages import KeyNotice
from nodes.coordinator.members.rotation import Rotation


def test_members_hear_of_a_change_within_a_second_and_once() -> None:
    keys = {"next": ""}
    rotation = Rotation(lambda: keys["next"])
    assert rotation.changed(0.0) is None
    keys["next"] = "K2"
    assert rotation.changed(0.5) is None
    assert rotation.changed(1.0) == KeyNotice("K2")
    assert rotation.changed(2.0) is None
    # Given up.
    keys["next"] = ""
    assert rotation.changed(3.0) == KeyNotice("")


def test_who_comes_in_hears_what_all_others_know() -> None:
    keys = {"next": "K2"}
    rotation = Rotation(lambda: keys["next"])
    assert rotation.notice(0.0) == KeyNotice("K2")
    keys["next"] = "K3"
    # Nobody overtakes those that are told at the next look.
    assert rotation.notice(5.0) == KeyNotice("K2")
    assert rotation.changed(5.0) == KeyNotice("K3")


def test_without_keys_there_is_nothing_to_tell() -> None:
    rotation = Rotation(None)
    assert rotation.notice(0.0) is None
    assert rotation.changed(1.0) is None


def test_a_file_that_cannot_be_read_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[str | KeysError] = ["K2"]

    def read() -> str:
        answer = answers[0]
        if isinstance(answer, KeysError):
            raise answer
        return answer

    rotation = Rotation(read)
    rotation.changed(0.0)
    answers[0] = KeysError("can be read by others")
    assert rotation.changed(1.0) is None
    assert rotation.changed(2.0) is None
    assert rotation.notice(3.0) == KeyNotice("K2")
    assert caplog.text.count("can be read by others") == 1
