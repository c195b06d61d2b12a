"""The reader of queries, which is only worth something if it refuses."""

from __future__ import annotations

import pytest

from tests.nodes.telemetry.metrics.promql import Selector, parse


def test_a_query_gives_its_selectors_and_groups() -> None:
    query = parse('sum by (a, le) (rate(x_bucket{b="1", c!="2"}[$__rate_interval])) / 2 + y')
    one = Selector("x_bucket", frozenset({"b", "c"}), True)
    assert query.selectors == [one, Selector("y", frozenset(), False)]
    assert query.groups == [(frozenset({"a", "le"}), [one])]


@pytest.mark.parametrize(
    "text",
    [
        *("", "sum(", "sum(x))", "rate(x)", "foo(x[5m])", "x{a}", 'x{a="1"', "x y"),
        *("histogram_quantile(x)", "sum by x (y)", "x{a=1}", "x[5m", "x % y"),
    ],
)
def test_what_is_no_query_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)
