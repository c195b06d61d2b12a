from __future__ import annotations

import re
from pathlib import Path

import pytest

from nodes.config.class_weights import parsed_weights, weight_of
from nodes.config.settings import ConfigError, CoordinatorConfig, load


def test_weights_are_by_the_beginnings_of_names() -> None:
    assert parsed_weights("") == parsed_weights("  ") == {}
    weights = parsed_weights("3fa9=2, 77bc = 100")
    assert weights == {"3fa9": 2, "77bc": 100}
    found = [weight_of(name, weights) for name in ("3fa9c1d2", "77bc", "77b", "a3fa9")]
    assert found == [2, 100, 0, 0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("3fa9", "'3fa9' is not the beginning of a class and its weight"),
        ("3fa9=1,", "'' is not the beginning of a class and its weight"),
        ("=1", "'=1' is not the beginning of a class and its weight"),
        ("3fa9 77bc=1", "'3fa9 77bc=1' is not the beginning of a class and its weight"),
        ("3fa9=0", "'3fa9=0': a weight is a whole number from 1 to 100"),
        ("3fa9=101", "'3fa9=101': a weight is a whole number from 1 to 100"),
        ("3fa9=1000000", "'3fa9=1000000': a weight is a whole number from 1 to 100"),
        ("3fa9=-1", "'3fa9=-1': a weight is a whole number from 1 to 100"),
        ("3fa9=1.5", "'3fa9=1.5': a weight is a whole number from 1 to 100"),
        ("3fa9=", "'3fa9=': a weight is a whole number from 1 to 100"),
        ("3fa9=1,3fa9=2", "3fa9 occurs twice"),
        ("3fa9=1,3f=2", "3f and 3fa9 are ambiguous: 3fa9 begins with both"),
    ],
)
def test_what_is_malformed_or_ambiguous_is_an_error_of_the_configuration(
    tmp_path: Path, text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parsed_weights(text)
    path = tmp_path / "coordinator.toml"
    path.write_text(f'[classes]\nweights = "{text}"\n')
    with pytest.raises(ConfigError) as caught:
        load(CoordinatorConfig, path, {}, {})
    assert str(caught.value) == f"classes.weights = {text!r}: {reason}"
