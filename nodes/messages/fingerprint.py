"""Fingerprints name what a text depends on beside its request: model and numerics class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

# Long hexadecimal numbers, such as the SHA-256 of a file, are told by their first digits.
NUM_DIGITS = 8
_SUFFIX = ".gguf"
# The name of its file and the hash of its content.
Model: TypeAlias = tuple[str, str]
_LONG_NUMBER = re.compile(rf"([0-9a-f]{{{NUM_DIGITS}}})[0-9a-f]+")
_FORM = re.compile(r"fp_([!-~]{1,256})_([!-^`-~]{1,256})")


@lru_cache(maxsize=1024)
def shortened(name: str) -> str:
    """Returns the hash of a model, or the name of a numerics class, as fingerprints have it."""
    return _LONG_NUMBER.sub(r"\1", name)


def fingerprint(model_hash: str, numerics_class: str) -> str:
    """Returns what an answer says of its target.

    Where it is the same, the same request with the same seed becomes the same text.
    """
    return f"fp_{shortened(model_hash)}_{shortened(numerics_class)}"


def parts_of(text: str) -> tuple[str, str]:
    """Returns model hash and numerics class of a fingerprint, shortened as they are there.

    Raises ValueError for what has another form.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("the system_fingerprint of an earlier answer is accepted, as fp_..._...")
    return found[1], found[2]


def is_fingerprint(text: str) -> bool:
    return _FORM.fullmatch(text) is not None


def is_meant(wanted: str, found: str) -> bool:
    """Returns whether a hash or class is the one that is wanted.

    wanted: in full or shortened; "" for any.
    """
    return not wanted or wanted == found or wanted == shortened(found)


def model_ids(models: Iterable[Model]) -> dict[Model, str]:
    """Returns the id of each model: the name of its file, with the hash where several share it."""
    found = set(models)
    num_of_name = Counter(name for name, _ in found)
    return {
        (name, model_hash): name if num_of_name[name] == 1 else f"{name}@{shortened(model_hash)}"
        for name, model_hash in sorted(found)
    }


def is_named(wanted: str, model: Model) -> bool:
    """Returns whether an id names a model.

    An id is the file's name with or without its ending, alone or with an @ and the first digits of
    the hash, eight or more.
    """
    name, model_hash = model
    names = (name, name.removesuffix(_SUFFIX))
    alone, _, digits = wanted.rpartition("@")
    begins = len(digits) >= NUM_DIGITS and model_hash.lower().startswith(digits.lower())
    is_hash = begins or digits == shortened(model_hash)
    return wanted in names or (alone in names and is_hash)
