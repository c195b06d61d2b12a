"""What libllama is handed, and where its logits are looked for."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from nodes.engine.llama_batch import LogitsView, PassBatch
from nodes.engine.protocol import Span

llama_cpp = pytest.importorskip("llama_cpp")


def test_a_batch_holds_the_spans_of_the_last_filling():
    batch = PassBatch(llama_cpp, 8)
    batch.fill([Span(3, 0, (9, 9, 9, 9, 9), 5)])

    rows = batch.fill([Span(1, 7, (5, 6, 4), 2), Span(0, 2, (8,), 1), Span(2, 0, [1, 2])])

    native = batch.native
    assert (rows, native.n_tokens) == (3, 6)
    assert native.token[:6] == [5, 6, 4, 8, 1, 2]
    assert native.pos[:6] == [7, 8, 9, 2, 0, 1]
    assert [native.seq_id[k][0] for k in range(6)] == [1, 1, 1, 0, 2, 2]
    assert native.n_seq_id[:6] == [1] * 6
    assert native.logits[:6] == [0, 1, 1, 1, 0, 0]


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
