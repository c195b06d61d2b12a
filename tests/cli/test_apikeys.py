from __future__ import annotations

from tests.cli.commands import Commands


def test_a_key_is_shown_once_listed_by_name_and_removed(commands: Commands) -> None:
    arguments = ("apikeys", "add", "laptop", "--max-concurrent", "4", "--scope", "infer")
    key = commands.printed(*arguments)
    assert key.startswith("ad-")
    path = commands.tmp / "keys" / "apikeys.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert commands.printed("apikeys", "list") == "laptop  infer  concurrent <= 4"
    assert key not in path.read_text()
    commands.printed("apikeys", "remove", "laptop")
    assert commands.printed("apikeys", "list") == ""
