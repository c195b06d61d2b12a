import contextlib
import errno
import logging
import os
import signal
import sys

import pytest

from airdraft.mesh.errors import EndpointError, KeysError, MeshError
from airdraft.mesh.messages import DISMISSED, NOT_ALLOWED, OTHER_PROTOCOL, UNSUITABLE
from airdraft.nodes.catalog import ModelNameError
from airdraft.nodes.client.client import RequestFailedError
from airdraft.nodes.config.settings import ConfigError
from airdraft.nodes.service.runtime import (
    JournalFormatter,
    StoppedError,
    TextFormatter,
    print_line,
    report,
)
from airdraft.nodes.worker.connection import LostCoordinatorError, NoCoordinatorError, RefusedError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError("x"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (MeshError("x"), 1),
        (RequestFailedError("unavailable", "x"), 1),
        (ModelNameError("x"), 2),
        (NoCoordinatorError("tcp://127.0.0.1:1", 1.0), 69),
        (LostCoordinatorError("tcp://127.0.0.1:1", "stopped"), 69),
        (RefusedError("x", OTHER_PROTOCOL), 76),
        (RefusedError("x", NOT_ALLOWED), 77),
        (RefusedError("x", UNSUITABLE), 78),
        (RefusedError("x", DISMISSED), 79),
        # Of a coordinator that knows more of them.
        (RefusedError("x", "of another version"), 1),
        (RefusedError("x"), 1),
        (ConfigError("x"), 78),
        (EndpointError("nonsense", "x"), 78),
        (KeysError("x"), 78),
    ],
)
def test_what_a_user_can_cause_is_a_line_and_a_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(ExceptionGroup("", [ExceptionGroup("", [error])])) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_an_error_of_a_file_is_one_line_with_its_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(OSError(errno.EROFS, "Read-only file system", "/state/x")) == 1
    assert capsys.readouterr().err == "error: /state/x: Read-only file system\n"


def test_the_journal_has_the_error_as_a_record_with_the_priority_of_one(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.fstat(sys.stderr.fileno())
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert report(ConfigError("no file,\nno fun")) == 78
    assert capfd.readouterr().err == "<3>error: no file,\\nno fun\n"


def test_a_name_with_control_characters_makes_no_further_line_of_a_log_or_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "é x\nERROR forged \x1b[2J"
    record = logging.LogRecord("x", logging.WARNING, "", 1, "draft %s joined", (name,), None)
    said = "draft é x\\nERROR forged \\x1b[2J joined"
    assert TextFormatter().format(record) == said
    assert JournalFormatter().format(record) == f"<4>WARNING x: {said}"
    assert report(RequestFailedError("bad_request", f"present nodes: {name}")) == 1
    said = capsys.readouterr().err
    assert said == "error: present nodes: é x\\nERROR forged \\x1b[2J\n"


def test_a_signal_is_told_by_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(StoppedError(signal.SIGINT)) == 130
    assert capsys.readouterr().err == ""


def test_a_service_goes_on_when_nobody_reads_its_standard_output_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", output)
    print_line("listening on tcp://127.0.0.1:7411")
    print_line("OpenAI API at http://127.0.0.1:8080/v1")
    with contextlib.suppress(BrokenPipeError):
        output.close()
