import logging

import pytest

from airdraft.nodes.gateway.connections.seldom import SeldomWarnings


def test_each_warning_is_written_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    warnings = SeldomWarnings(logging.getLogger("seldom"))
    for now in (0.0, 1.0, 9.9, 10.0, 11.0):
        warnings.write(now, "too many: %d", int(now))
        warnings.write(now, "too few")
    assert caplog.messages == ["too many: 0", "too few", "too many: 10", "too few"]
