"""Formats log lines for journald: a priority, then one JSON object."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import IO

# syslog(3).
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def is_journal(environ: Mapping[str, str], stream: IO[str]) -> bool:
    """Whether a stream goes to journald: JOURNAL_STREAM has its device and inode."""
    device, colon, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return bool(colon) and (device, inode) == (str(found.st_dev), str(found.st_ino))


class JournalFormatter(logging.Formatter):
    """Makes lines `<4>{"level": "warning", "logger": ..., "message": ...}`, some with traceback."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return f"<{_priority(record.levelno)}>{json.dumps(fields, ensure_ascii=False)}"


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG)
