"""Where tests of the ZeroMQ transport meet: over ipc and over tcp."""

import pytest

from airdraft.mesh.zmq_transport import ZmqContext


@pytest.fixture(params=["ipc", "tcp"])
def endpoint(request, tmp_path):
    return f"ipc://{tmp_path}/mesh.sock" if request.param == "ipc" else "tcp://127.0.0.1:0"


@pytest.fixture
def context():
    with ZmqContext() as context:
        yield context
    # Closing twice is once.
    context.close()


@pytest.fixture
def contexts():
    """One for the server and one for its clients, as in life."""
    with ZmqContext() as server, ZmqContext() as clients:
        yield server, clients
