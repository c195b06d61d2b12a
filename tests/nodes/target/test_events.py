from __future__ import annotations

import pytest

from nodes.engine.grammar import GrammarError
from nodes.worker.events import Failed, failed_by
from tests.nodes.builders import make_spec


@pytest.mark.parametrize(
    ("is_request_bad", "code"), [(True, "bad_request"), (False, "unavailable")]
)
def test_a_bad_grammar_is_the_clients_and_a_missing_library_the_nodes(
    is_request_bad: bool, code: str
) -> None:
    error = GrammarError("no", is_request_bad=is_request_bad)
    spec = make_spec(3)
    assert failed_by(spec, 7, error) == Failed(spec.stream_id, 7, "no", code)
