from __future__ import annotations

from typing import Any

from nodes.client.cancellations import Cancellations
from nodes.messages import CancelRequest


class Line:
    """Takes as many messages as it has room for."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sent: list[int] = []

    def send(self, message: Any) -> bool:
        assert isinstance(message, CancelRequest)
        if self.room == 0:
            return False
        self.room -= 1
        self.sent.append(message.request_id)
        return True


def test_a_cancellation_goes_at_once_and_once() -> None:
    line = Line(9)
    cancellations = Cancellations(line.send)
    cancellations.cancel(7)
    cancellations.send_again()
    assert line.sent == [7]


def test_what_could_not_leave_goes_in_order_as_soon_as_there_is_room() -> None:
    line = Line(0)
    cancellations = Cancellations(line.send)
    for number in (3, 1, 2):
        cancellations.cancel(number)
    cancellations.send_again()
    assert line.sent == []
    line.room = 2
    cancellations.send_again()
    assert line.sent == [3, 1]
    line.room = 9
    cancellations.cancel(4)
    assert line.sent == [3, 1, 2, 4]
