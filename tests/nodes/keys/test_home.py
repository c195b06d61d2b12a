"""A user's own mesh: where its socket is, and that nobody else gets to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import EndpointError
from nodes.keys.keyring import make_private, private_endpoint


def test_it_is_in_the_runtime_directory_or_else_in_the_cache() -> None:
    home = {"HOME": "/home/a", "XDG_CACHE_HOME": "/home/a/cache"}
    assert private_endpoint({**home, "XDG_RUNTIME_DIR": "/run/user/7"}) == (
        "ipc:///run/user/7/airdraft/mesh.sock"
    )
    for runtime in ({}, {"XDG_RUNTIME_DIR": ""}, {"XDG_RUNTIME_DIR": "relative"}):
        assert private_endpoint({**home, **runtime}) == (
            "ipc:///home/a/cache/airdraft/run/mesh.sock"
        )
    assert private_endpoint({"STATE_DIRECTORY": "/var/lib/x", "XDG_RUNTIME_DIR": "/run/x"}) == ""


def test_only_its_user_may_enter_the_directory(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/a/b/mesh.sock"
    for _ in range(2):
        make_private(endpoint)
        assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    (tmp_path / "a" / "b").chmod(0o750)
    with pytest.raises(EndpointError, match=r"other users may enter .*mode 700"):
        make_private(endpoint)


def test_a_link_to_elsewhere_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EndpointError, match="other users may enter"):
        make_private(f"ipc://{tmp_path}/run/mesh.sock")


def test_where_no_directory_can_be_made_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EndpointError, match="--listen"):
        make_private(f"ipc://{tmp_path}/file/run/mesh.sock")
