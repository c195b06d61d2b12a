from __future__ import annotations

import pytest

from airdraft.nodes.messages.fingerprint import (
    fingerprint,
    is_meant,
    is_named,
    model_ids,
    parts_of,
    shortened,
)

HASH, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (HASH, "01234567"),
        ("3fa9c1d277bc0011", "3fa9c1d2"),
        ("3fa9c1d277bc0011~a1b2c3d4", "3fa9c1d2~a1b2c3d4"),
        ("toy-0-0.85", "toy-0-0.85"),
        ("replay-0123456789abcdef-big", "replay-01234567-big"),
        ("integers", "integers"),
        ("", ""),
    ],
)
def test_long_numbers_are_told_by_their_first_digits(name: str, short: str) -> None:
    assert shortened(name) == shortened(short) == short


def test_a_fingerprint_names_model_and_class_and_is_taken_back() -> None:
    told = fingerprint(HASH, "3fa9c1d277bc0011")
    assert told == "fp_01234567_3fa9c1d2"
    model_hash, numerics_class = parts_of(told)
    assert is_meant(model_hash, HASH)
    assert is_meant(numerics_class, "3fa9c1d277bc0011")
    assert not is_meant(model_hash, OTHER)
    assert not is_meant(numerics_class, "3fa9c1d377bc0011")
    # Short of an own name is not the beginning of another one.
    assert not is_meant("int", "integers")
    assert is_meant(HASH, HASH)
    assert is_meant("", HASH)
    assert parts_of("fp_a_b_c") == ("a_b", "c")


@pytest.mark.parametrize(
    "text", ["", "fp_", "fp__", "fp_0123456789ab", "fp_a_", "fp__b", "a_b", "fp_a b_c", "fp_a_é"]
)
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="system_fingerprint of an earlier answer is accepted"):
        parts_of(text)


def test_a_name_that_several_models_have_is_told_with_the_hash() -> None:
    models = [("a", HASH), ("b", HASH), ("b", OTHER), ("a", HASH)]
    assert model_ids(models) == {
        ("a", HASH): "a",
        ("b", HASH): "b@01234567",
        ("b", OTHER): "b@fedcba98",
    }


def test_a_model_is_named_by_its_file_and_the_first_digits_of_its_hash() -> None:
    model = "tiny.gguf", HASH
    for wanted in ("tiny", "tiny.gguf", "tiny@01234567", "tiny.gguf@0123456789AB", f"tiny@{HASH}"):
        assert is_named(wanted, model), wanted
    for wanted in ("", "tin", "tiny@", "tiny@0123456", "tiny@11234567", "@01234567", f"x@{HASH}"):
        assert not is_named(wanted, model), wanted
    # Names of files may have an @, too.
    assert is_named("tiny@01234567", ("tiny@01234567", OTHER))
    assert is_named("toy-1@toy-0-1", ("toy-1", "toy-0-1"))
