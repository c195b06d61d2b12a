"""Targets of one declared class, one of which computes other bits: a coordinator finds out."""

import asyncio

from nodes.client.generation import GenerateOptions
from nodes.engine.toy import ToyModel
from nodes.messages import APART
from tests.nodes.memory_mesh import ask, mesh


class OtherBits(ToyModel):
    """It says that it is of the toy's class, and is not."""

    def forward(self, spans):
        rows = super().forward(spans)
        rows[:, 3:] += 1 / 512
        return rows


async def nodes_of(client, wanted):
    """The nodes by name, once what they are told apart by is known."""
    while True:
        nodes = {node.node: APART in node.numerics_class for node in (await client.nodes()).nodes}
        if wanted(nodes):
            return nodes
        await asyncio.sleep(0.005)


async def test_a_target_that_computes_other_bits_is_told_apart():
    async with mesh() as members:
        client = members.start_client("client")
        await members.wait_for(client, {"target"})
        # The first answer of the class is there when a request is served.
        await ask(client, GenerateOptions(max_tokens=4))
        members.start_target("liar", OtherBits(members.config))
        members.start_target("twin", ToyModel(members.config))
        nodes = await asyncio.wait_for(
            nodes_of(client, lambda found: len(found) == 3 and found["liar"]), 10
        )
        assert nodes == {"target": False, "liar": True, "twin": False}
