"""An engine's facts and costs arrive as they were sent."""

import dataclasses

import pytest

from airdraft.mesh.codec import encode_struct
from airdraft.mesh.errors import DecodeError
from airdraft.nodes.engine.toy import ToyModel
from airdraft.nodes.messages import LinkFields
from airdraft.nodes.worker.profile import (
    costs_of,
    decode_profile,
    encode_profile,
    link_of,
    token_bits,
)
from airdraft.policies.latency import CostTable, NodeCosts
from airdraft.policies.plan import Link

INFO = ToyModel().info
COSTS = NodeCosts(CostTable((1, 4), (0.01, 0.02), 1e-9, 1e-7), CostTable((32,), (0.3,)))


def test_facts_and_costs_come_back_equal():
    facts = {"num_cells": 7, "context_length": 8, "num_vocab": 9, "max_sequences": 10}
    info = dataclasses.replace(
        INFO, **facts, exact=False, emulated=True, can_cut=False, can_take_back=False
    )
    profile = decode_profile(encode_profile(info, COSTS))
    assert costs_of(profile) == COSTS
    assert profile.max_streams == info.max_sequences
    for name in {f.name for f in dataclasses.fields(profile)} & {*dir(info)}:
        assert getattr(profile, name) == getattr(info, name)


@pytest.mark.parametrize(
    "data",
    [
        *(encode_profile(INFO, COSTS)[:cut] for cut in (0, 1, 10, -1)),
        encode_struct(CostTable((1,), (1.0,))),
    ],
    ids=["0", "1", "10", "-1", "another struct"],
)
def test_a_profile_that_was_cut_or_is_another_struct_is_malformed(data):
    with pytest.raises(DecodeError):
        decode_profile(data)


@pytest.mark.parametrize(
    "fields",
    [
        # Of no device: the planner computes with them, and nothing a peer says may overflow there.
        CostTable((1, 4), (1e-10, 0.1)),
        CostTable((1, 4), (0.1, 1e6)),
        CostTable((1,), (0.1,), 1e160),
        CostTable((1, 2**31), (0.1, 0.2)),
    ],
)
@pytest.mark.parametrize("table", ["decode", "prefill"])
def test_costs_that_no_measurement_gives_are_refused(table, fields):
    profile = decode_profile(encode_profile(INFO, COSTS))
    with pytest.raises(ValueError, match=r"."):
        costs_of(dataclasses.replace(profile, **{table: fields}))


def test_a_declared_link_comes_back_and_another_is_unlimited():
    declared = LinkFields("cell-a", 250e3, 0.002)
    profile = decode_profile(encode_profile(INFO, COSTS, link=declared))
    assert link_of(profile) == Link(250e3, medium="cell-a", frame_s=0.002)
    assert link_of(decode_profile(encode_profile(INFO, COSTS))) == Link()
    dead = decode_profile(encode_profile(INFO, COSTS, link=LinkFields("", 1.0, 0.0)))
    with pytest.raises(ValueError, match="at least 1000 bit/s"):
        link_of(dead)


def test_token_ids_take_two_bytes_where_all_of_a_vocabulary_fit():
    for num_vocab, bits in ((49_152, 16), (65_536, 16), (65_537, 32)):
        info = dataclasses.replace(INFO, num_vocab=num_vocab)
        assert token_bits(decode_profile(encode_profile(info, COSTS))) == bits
