"""What libllama is handed, and where its logits are looked for."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np

from nodes.engine.llama_batch import LogitsView


def test_logits_are_looked_for_where_the_last_pass_has_them():
    first = np.arange(12, dtype=np.float32)
    second = np.arange(100, 112, dtype=np.float32)
    where = [first]

    def get_logits(_context: object) -> object:
        return where[0].ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    view = LogitsView(SimpleNamespace(llama_get_logits=get_logits), None, 4)

    assert view.rows(1).tolist() == [[0, 1, 2, 3]]
    assert view.rows(3)[2].tolist() == [8, 9, 10, 11]
    first[:] += 1
    assert view.rows(2).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    where[0] = second
    assert view.rows(1).tolist() == [[100, 101, 102, 103]]
    assert np.shares_memory(view.rows(3), second)
