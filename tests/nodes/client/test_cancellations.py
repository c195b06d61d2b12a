from nodes.client.cancellations import Cancellations
from nodes.messages import CancelRequest


def test_what_could_not_leave_goes_once_and_in_order_as_soon_as_there_is_room() -> None:
    room, sent = 1, list[int]()

    def send(message: CancelRequest) -> bool:
        nonlocal room
        if room == 0:
            return False
        room -= 1
        sent.append(message.request_id)
        return True

    cancellations = Cancellations(send)
    for number in (7, 3, 1, 2):
        cancellations.cancel(number)
    cancellations.send_again()
    assert sent == [7]
    room = 2
    cancellations.send_again()
    assert sent == [7, 3, 1]
    room = 9
    cancellations.cancel(4)
    assert sent == [7, 3, 1, 2, 4]
