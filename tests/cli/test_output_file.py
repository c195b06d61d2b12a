"""Files that a user asked for: whole, or the one before stays; what is no file is written to."""

import os
import threading
from pathlib import Path

from airdraft.nodes.cli.output_file import write_output


def test_a_file_is_replaced_as_a_whole_keeps_its_mode_and_a_link_is_followed(
    tmp_path: Path,
) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    write_output(path, b"1")
    path.chmod(0o640)
    with path.open("rb") as before:
        write_output(path, b"0")
        assert before.read() == b"1"
    link.symlink_to(path)
    write_output(link, b"2")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"2", 0o640)
    assert link.is_symlink()


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = threading.Thread(target=write_output, args=(pipe, b"told"))
    writing.start()
    assert pipe.read_bytes() == b"told"
    writing.join()
    assert pipe.is_fifo()
