import hmac
from pathlib import Path

import pytest

from airdraft.mesh.errors import KeysError
from airdraft.mesh.private_rows import MAX_ROWS
from airdraft.nodes.gateway.apikeys import ApiKey, ApiKeys, digest, new_key


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(tmp_path / "deep" / "apikeys.toml")


def test_a_key_is_kept_as_its_hash(keys: ApiKeys) -> None:
    key = new_key()
    assert len(key) > 40
    entry = ApiKey(name="laptop", sha256=digest(key), max_tokens=5)
    keys.add(entry)
    assert key not in keys.path.read_text()
    assert keys.path.stat().st_mode & 0o777 == 0o600
    assert keys.find(key) == entry
    assert keys.find(key + "x") is None
    assert keys.find("") is None


def test_all_keys_are_compared_whichever_fits(
    keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = [new_key() for _ in range(3)]
    for index, key in enumerate(drawn):
        keys.add(ApiKey(name=f"k{index}", sha256=digest(key)))
    compared: list[str] = []

    def compare(one: str, other: str) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for key in (drawn[0], "none"):
        compared.clear()
        keys.find(key)
        assert len(compared) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "name of an API key"),
        ({"name": 'x"'}, "name of an API key"),
        ({"sha256": "0"}, "sha256"),
        ({"scopes": ()}, "scopes"),
        ({"scopes": ("root",)}, "scopes"),
        ({"max_tokens": -1}, "max_tokens"),
    ],
)
def test_entries_that_are_refused(changes: dict[str, object], message: str) -> None:
    values = {"name": "a", "sha256": "0" * 64, **changes}
    with pytest.raises(KeysError, match=message):
        ApiKey(**values)  # type: ignore[arg-type]


def test_a_file_that_cannot_be_understood_lets_nobody_in(keys: ApiKeys) -> None:
    keys.add(ApiKey(name="a", sha256="0" * 64))
    keys.path.write_text("[[key]]\nname = 'a'\nsha256 = 'x'")
    with pytest.raises(KeysError, match=r"apikeys\.toml: .*sha256 must have 64"):
        keys.find("x")


def test_what_cannot_be_done_is_said(keys: ApiKeys) -> None:
    keys.add(ApiKey(name="a", sha256="0" * 64))
    with pytest.raises(KeysError, match="an API key a exists already"):
        keys.add(ApiKey(name="a", sha256="1" * 64))
    with pytest.raises(KeysError, match="no API key 'b'"):
        keys.remove("b")
    keys.path.chmod(0o644)
    with pytest.raises(KeysError, match="chmod 600"):
        keys.all()


@pytest.mark.slow
def test_as_many_keys_as_are_accepted_can_be_read_however_long_they_are(keys: ApiKeys) -> None:
    keys.add(ApiKey(name="a", sha256="0" * 64))
    limits = "".join(f"max_{what} = 1048576\n" for what in ("concurrent", "tokens", "choices"))
    rows = (
        f'[[key]]\nname = "{number:032}"\nsha256 = "{number:064}"\n'
        f'scopes = ["infer", "admin"]\n{limits}\n'
        for number in range(MAX_ROWS)
    )
    keys.path.write_text("".join(rows))
    assert len(keys.all()) == MAX_ROWS
