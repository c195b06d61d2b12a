"""Log lines as journald reads them."""

import json
import logging
import os
import sys

import pytest

from nodes.service.systemd import JournalFormatter, is_journal


def record(level=logging.WARNING, message="a %s", args=("b",), exc_info=None):
    return logging.LogRecord("nodes.x", level, "x.py", 1, message, args, exc_info)


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (10, 7)],
)
def test_a_line_begins_with_its_priority(level, priority):
    line = JournalFormatter().format(record(level))
    assert line.startswith(f"<{priority}>{{")


def test_a_record_is_one_line_of_json_whatever_it_says():
    line = JournalFormatter().format(record(message='two\nlines "quoted" é', args=()))
    assert "\n" not in line
    said = json.loads(line[3:])
    assert said == {
        "level": "warning",
        "logger": "nodes.x",
        "message": 'two\nlines "quoted" é',
    }


def test_a_traceback_is_a_field_of_the_same_line():
    try:
        raise ValueError("why")
    except ValueError:
        line = JournalFormatter().format(record(exc_info=sys.exc_info()))
    assert "\n" not in line
    assert "ValueError: why" in json.loads(line[3:])["traceback"]


def test_a_stream_is_the_journal_s_if_it_is_the_one_that_was_named(tmp_path):
    with (tmp_path / "log").open("w") as stream, (tmp_path / "other").open("w") as other:
        found = os.fstat(stream.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert is_journal(environ, stream)
        assert not is_journal(environ, other)
        assert not is_journal({}, stream)
        assert not is_journal({"JOURNAL_STREAM": "nonsense"}, stream)
