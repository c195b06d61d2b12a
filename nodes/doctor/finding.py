"""The result of a check."""

import enum
import functools
from dataclasses import dataclass


class Level(enum.StrEnum):
    """FAIL: something will not work. WARN: it works badly. NOTE: for information."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. what: one line. mend: what to do about it; "" for nothing."""

    level: Level
    what: str
    mend: str = ""


ok = functools.partial(Finding, Level.OK)
note = functools.partial(Finding, Level.NOTE)
warn = functools.partial(Finding, Level.WARN)
fail = functools.partial(Finding, Level.FAIL)
