"""The setting `classes.weights`, by which an operator shares requests among numerics classes."""

import itertools
from collections.abc import Mapping

MOST_WEIGHT = 100


def parsed_weights(text: str) -> dict[str, int]:
    """Parse "3fa9=2, 77bc=1"; returns weights by the beginnings of class names, {} for "".

    Raises ValueError if the text is malformed, or if one beginning is that of another one.
    """
    found: dict[str, int] = {}
    if not text.strip():
        return found
    for entry in text.split(","):
        beginning, equals, weight = (part.strip() for part in entry.partition("="))
        if not (beginning and equals) or " " in beginning:
            raise ValueError(f"{entry.strip()!r} is not the beginning of a class and its weight")
        if not (weight.isascii() and weight.isdigit() and 1 <= int(weight[:4]) <= MOST_WEIGHT):
            raise ValueError(
                f"{entry.strip()!r}: a weight is a whole number from 1 to {MOST_WEIGHT}"
            )
        if beginning in found:
            raise ValueError(f"{beginning} occurs twice")
        found[beginning] = int(weight)
    for one, other in itertools.permutations(found, 2):
        if other.startswith(one):
            raise ValueError(f"{one} and {other} are ambiguous: {other} begins with both")
    return found


def weight_of(numerics_class: str, weights: Mapping[str, int]) -> int:
    """Return the weight of a class; 0 if it is not listed."""
    return next((w for name, w in weights.items() if numerics_class.startswith(name)), 0)
