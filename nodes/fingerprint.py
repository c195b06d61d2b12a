"""What a text depends on beside its request, named: the model's content and the numerics class."""

from __future__ import annotations

import re

# Long hexadecimal numbers, such as the SHA-256 of a file, are told by their first digits.
NUM_DIGITS = 8
_LONG_NUMBER = re.compile(rf"([0-9a-f]{{{NUM_DIGITS}}})[0-9a-f]+")
_FORM = re.compile(r"fp_([!-~]{1,256})_([!-^`-~]{1,256})")


def shortened(name: str) -> str:
    """The hash of a model, or the name of a numerics class, as fingerprints have it."""
    return _LONG_NUMBER.sub(r"\1", name)


def fingerprint(model_hash: str, numerics_class: str) -> str:
    """The same for equal bits: with it, a request and its seed become the same text."""
    return f"fp_{shortened(model_hash)}_{shortened(numerics_class)}"


def parts_of(text: str) -> tuple[str, str]:
    """Model hash and numerics class of a fingerprint, shortened as they are there.

    Raises ValueError for what has another form.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError("the system_fingerprint of an earlier answer is accepted, as fp_..._...")
    return found[1], found[2]


def is_meant(wanted: str, found: str) -> bool:
    """Whether a hash or class is the one that is wanted, which may be shortened; "": any."""
    return wanted in ("", found, shortened(found))


def model_id(name: str, model_hash: str) -> str:
    """What names one of several models whose files are called alike."""
    return f"{name}@{shortened(model_hash)}"


def is_beginning(digits: str, model_hash: str) -> bool:
    """Whether these digits, eight or more, name a model by its hash."""
    begins = len(digits) >= NUM_DIGITS and model_hash.lower().startswith(digits.lower())
    return begins or digits == shortened(model_hash)
