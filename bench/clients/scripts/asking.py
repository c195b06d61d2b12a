"""What all scripts have in common: `python SCRIPT URL MODEL`, which ends with 1 if it is wrong.

Scripts run with the packages of their client alone, so nothing of airdraft is imported here.
"""

from __future__ import annotations

import sys

URL, MODEL = sys.argv[1:3]
QUESTION = "How warm is it in Paris?"
# The parameters of a tool that says the temperature of a city.
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WHERE = "Where does the Eiffel tower stand?"


def check(what: str, *, is_right: bool) -> None:
    """Say what was done; the script ends where it went wrong."""
    print(f"{'works' if is_right else 'WRONG'}: {what}", flush=True)
    if not is_right:
        sys.exit(1)
