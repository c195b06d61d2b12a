"""Fingerprints name what a text depends on besides its request: model and numerics class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

# Long hexadecimal numbers, such as the SHA-256 of a file, are shortened to their first digits.
NUM_DIGITS = 8
_SUFFIX = ".gguf"
# The name of a model's file and the hash of its content.
Model: TypeAlias = tuple[str, str]
_LONG_NUMBER = re.compile(rf"([0-9a-f]{{{NUM_DIGITS}}})[0-9a-f]+")
_FORM = re.compile(r"fp_([!-~]{1,256})_([!-^`-~]{1,256})")


@lru_cache(maxsize=1024)
def shortened(name: str) -> str:
    """Returns a model's hash, or the name of a numerics class, in the form of fingerprints."""
    return _LONG_NUMBER.sub(r"\1", name)


def fingerprint(model_hash: str, numerics_class: str) -> str:
    """Returns the fingerprint of a target, which is part of each answer.

    Equal requests with equal seeds give equal texts if their fingerprints are equal.
    """
    return f"fp_{shortened(model_hash)}_{shortened(numerics_class)}"


def parts_of(text: str) -> tuple[str, str]:
    """Returns model hash and numerics class of a fingerprint, in its shortened form.

    Raises ValueError for text of another form.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("the system_fingerprint of an earlier answer is accepted, as fp_..._...")
    return found[1], found[2]


def is_meant(wanted: str, found: str) -> bool:
    """Returns whether a hash or class matches the wanted one.

    wanted: in full or shortened; "" for any.
    """
    return not wanted or wanted == found or wanted == shortened(found)


def model_ids(models: Iterable[Model]) -> dict[Model, str]:
    """Returns each model's id: its file's name, with the hash if several models share the name."""
    found = set(models)
    num_of_name = Counter(name for name, _ in found)
    return {
        (name, model_hash): name if num_of_name[name] == 1 else f"{name}@{shortened(model_hash)}"
        for name, model_hash in sorted(found)
    }


def is_named(wanted: str, model: Model) -> bool:
    """Returns whether an id names a model.

    An id is the file's name with or without its suffix, alone or followed by @ and eight or more of
    the first digits of the hash.
    """
    name, model_hash = model
    names = (name, name.removesuffix(_SUFFIX))
    alone, _, digits = wanted.rpartition("@")
    begins = len(digits) >= NUM_DIGITS and model_hash.lower().startswith(digits.lower())
    is_hash = begins or digits == shortened(model_hash)
    return wanted in names or (alone in names and is_hash)
