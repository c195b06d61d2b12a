"""What a machine is told whose key the coordinator does not take."""

from __future__ import annotations

import asyncio

import pytest

from airdraft.mesh.codec import encode
from airdraft.mesh.keys import ClientKeys
from airdraft.mesh.messages import OTHER_PROTOCOL, EnrolReply, Refuse
from airdraft.mesh.security import ServerKeys, new_key_pair
from airdraft.mesh.zmq_transport import ZmqContext
from airdraft.nodes.keys.enrol import EnrolError, enrol


@pytest.mark.parametrize("answer", [Refuse("why", OTHER_PROTOCOL), EnrolReply("why", "", ())])
async def test_a_machine_is_told_why_its_key_is_not_taken(answer: Refuse | EnrolReply) -> None:
    """A coordinator of another version sends a Refuse."""
    pair, invited = new_key_pair(), new_key_pair()
    with ZmqContext() as context:
        server = context.bind("tcp://127.0.0.1:0", ServerKeys(pair, invited.public.__eq__))
        keys = ClientKeys(invited, pair.public)
        enrolling = asyncio.create_task(enrol(server.endpoint, keys, "k" * 40, "nano"))
        received = await server.recv()
        server.send(received.peer, encode(answer))
        with pytest.raises(EnrolError, match=r"^why$"):
            await enrolling
