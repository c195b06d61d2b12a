import asyncio
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from airdraft.nodes.api import Client, ConnectError, ConnectionLostError, InvalidRequestError
from tests.nodes.api.toy_mesh import ToyMesh
from tests.nodes.held import held


def wait_until_empty(mesh: ToyMesh) -> None:
    give_up_at = time.monotonic() + 60
    while mesh.num_streams():
        assert time.monotonic() < give_up_at
        time.sleep(0.005)


def test_it_answers_threads_and_leaves_none(mesh: ToyMesh) -> None:
    with Client(mesh.endpoint) as client:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: client.complete("hi", max_tokens=20), range(4)))
        text = answers[0].text
        assert [answer.text for answer in answers] == [text] * 4
        with client.stream("hi", max_tokens=20) as pieces:
            assert "".join(piece.text for piece in pieces) == text
        assert pieces.completion is not None
        assert (pieces.completion.text, pieces.seed) == (text, pieces.completion.seed)
        with client.stream_chat("hi", max_tokens=3) as pieces:
            assert "".join(piece.text for piece in pieces)
        assert client.chat("hi", max_tokens=3, num_choices=2).choices[1].text
        assert len(client.nodes()) == 2
    assert all(thread.name != "airdraft-client" for thread in threading.enumerate())


def test_a_stream_that_is_left_is_cancelled(mesh: ToyMesh) -> None:
    with Client(mesh.endpoint) as client:
        with client.stream("hi", max_tokens=4000) as pieces:
            next(pieces)
        wait_until_empty(mesh)
        for _ in client.stream("hi", max_tokens=4000):
            break
        wait_until_empty(mesh)


def test_errors_come_as_they_are(mesh: ToyMesh, tmp_path: Path) -> None:
    with Client(mesh.endpoint) as client, pytest.raises(InvalidRequestError):
        client.complete("hi", temperature=-1.0)
    with pytest.raises(ConnectError):
        Client("tcp://127.0.0.1:9", key=tmp_path, timeout_s=0.2)
    assert all(thread.name != "airdraft-client" for thread in threading.enumerate())


def test_a_closed_client_says_so(mesh: ToyMesh, caplog: pytest.LogCaptureFixture) -> None:
    with Client(mesh.endpoint) as client, held(mesh.model, after_passes=20):
        stream = client.stream("hi", max_tokens=4000)
        next(stream)
        client.close()
        client.close()
    with pytest.raises(ConnectionLostError, match="the client was closed"):
        client.complete("hi")
    with pytest.raises(ConnectionLostError):
        next(stream)
    wait_until_empty(mesh)
    # The stream that was open then ended without a traceback.
    assert caplog.text == ""


def test_a_stream_can_be_left_while_its_next_piece_is_asked_for(mesh: ToyMesh) -> None:
    """As by a Ctrl-C while the caller waits for it."""
    with Client(mesh.endpoint) as client, ThreadPoolExecutor(1) as pool:
        with held(mesh.model, after_passes=20):
            pieces = client.stream("hi", max_tokens=4000)
            next(pieces)
            rest = pool.submit(list, pieces)
            pieces.close()
            assert rest in wait([rest], timeout=60).done
            assert all(piece.text for piece in rest.result())
            assert pieces.completion is None
        wait_until_empty(mesh)
        assert client.nodes()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_of_the_process_is_told_to_open_a_client_of_its_own(mesh: ToyMesh) -> None:
    with Client(mesh.endpoint) as client:

        def ask() -> None:
            with pytest.raises(ConnectionLostError, match="another process"):
                client.complete("hi")
            client.close()

        child = multiprocessing.get_context("fork").Process(target=ask)
        child.start()
        child.join(60)
        child.kill()
        child.join()
        assert child.exitcode == 0
        assert client.complete("hi", max_tokens=3).text


def test_who_has_to_wait_may_close_the_client_but_not_wait_for_it(mesh: ToyMesh) -> None:
    errors = list[str]()

    def on_waiting() -> None:
        try:
            client.nodes()
        except RuntimeError as error:
            errors.append(str(error))
        client.close()

    # In a block, because a client that a failed test leaves open disturbs those after it.
    with Client(mesh.endpoint, on_waiting=on_waiting) as client, held(mesh.model, after_passes=20):
        pieces = client.stream("hi", max_tokens=4000)
        next(pieces)
        mesh.stop_coordinator()
        with pytest.raises(ConnectionLostError, match="the client was closed"):
            list(pieces)
    assert len(errors) == 1
    assert "on_waiting cannot wait" in errors[0]


def test_a_call_in_the_instant_in_which_another_thread_closes_the_client_returns(
    mesh: ToyMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_closing, may_close = threading.Event(), threading.Event()
    close = asyncio.SelectorEventLoop.close

    def close_later(loop: asyncio.SelectorEventLoop) -> None:
        if threading.current_thread().name == "airdraft-client":
            is_closing.set()
            assert may_close.wait(60)
        close(loop)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "close", close_later)
    client = Client(mesh.endpoint)
    pool = ThreadPoolExecutor(2)
    try:
        closing = pool.submit(client.close)
        assert is_closing.wait(60)
        asking = pool.submit(client.nodes)
        wait([asking], timeout=0.5)
        may_close.set()
        assert {closing, asking} == wait([closing, asking], timeout=60).done
        with pytest.raises(ConnectionLostError, match="the client was closed"):
            asking.result()
    finally:
        may_close.set()
        pool.shutdown(wait=False)
