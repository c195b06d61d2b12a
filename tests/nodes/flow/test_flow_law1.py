"""Law 1 where guesses flow: late, lost, repeated or wrong, they never change a text.

AIRDRAFT_LAW1_CASES=10000 pytest tests/nodes/flow/test_flow_law1.py runs the long form.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.nodes.flow_mesh import FlowMesh
from tests.nodes.pure_mesh import Case
from tests.nodes.test_law1 import NUM_CASES, cases


@pytest.mark.slow
@pytest.mark.timeout(max(300, NUM_CASES // 4))
@settings(max_examples=NUM_CASES, suppress_health_check=list(HealthCheck), database=None)
@given(case=cases())
def test_every_stream_becomes_what_it_would_alone(case: Case) -> None:
    FlowMesh(case).run()
