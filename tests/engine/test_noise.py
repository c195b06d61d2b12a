"""Ids that are drawn are the same in every version."""

from nodes.engine.noise import drawn_ids
from tests.engine.plain_law1 import plain_hash


def test_drawn_ids_are_hashes_of_the_seed():
    for seed in (0, 24, 2**64 - 1):
        expected = [plain_hash(seed, index) % 49_152 for index in range(40)]
        assert drawn_ids(seed, 40, 49_152) == expected
