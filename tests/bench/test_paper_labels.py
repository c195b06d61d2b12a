"""Dominance filters against the definition, pair by pair."""

import numpy as np
import pytest

from bench.paper.labels import staircase, undominated


def by_definition(labels):
    """Indices no other label equals or beats everywhere; of equal labels the first stays."""
    columns = [tuple(column) for column in labels.T.tolist()]

    def beats(i, k):
        if columns[i] == columns[k]:
            return i < k
        return all(a <= b for a, b in zip(columns[i], columns[k], strict=True))

    everyone = range(len(columns))
    return [k for k in everyone if not any(beats(i, k) for i in everyone)]


@pytest.mark.parametrize("levels", [2, 4, 50])
def test_what_stays_is_what_no_other_label_equals_or_beats(levels):
    rng = np.random.default_rng(levels)
    for _ in range(60):
        labels = rng.integers(0, levels, (int(rng.integers(1, 5)), int(rng.integers(1, 30))))
        assert undominated(labels.astype(float)).tolist() == by_definition(labels)


def test_a_staircase_is_what_stays_in_two_coordinates_in_order_of_time():
    rng = np.random.default_rng(7)
    for levels in (2, 5, 100) * 40:
        labels = rng.integers(0, levels, (2, int(rng.integers(1, 30)))).astype(float)
        kept = staircase(labels[0], labels[1]).tolist()
        assert sorted(kept) == by_definition(labels)
        assert labels[0, kept].tolist() == sorted(labels[0, kept])
