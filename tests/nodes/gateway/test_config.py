from dataclasses import fields

import pytest

from airdraft.nodes.config.settings import ConfigError
from airdraft.nodes.gateway.config import GatewayConfig, GatewayLimits, address_of, names


@pytest.mark.parametrize("limit", [item.name for item in fields(GatewayLimits)])
def test_every_limit_has_bounds(limit: str) -> None:
    for value in (-1, 1 << 60):
        with pytest.raises(ConfigError, match=f"limits.{limit} = "):
            GatewayLimits(**{limit: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("listen", ["", "8080", ":8080", "a:b", "a:70000", "a:-1"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        GatewayConfig(listen=listen)


def test_an_address_is_a_host_and_a_port() -> None:
    assert address_of("localhost:0") == ("localhost", 0)
    assert address_of("[::1]:80") == ("::1", 80)


def test_half_a_certificate_and_wrong_origins_are_refused() -> None:
    with pytest.raises(ConfigError, match="both or neither"):
        GatewayConfig(tls_cert="x")
    for origin in ("example.org", "https://a/", "*"):
        with pytest.raises(ConfigError, match="cors_origins"):
            GatewayConfig(cors_origins=origin)
    assert GatewayConfig(cors_origins="https://a, http://b:1").cors_origins
    # What no header Host could equal.
    for host in ("*", "*.lan", "box.lan:8080", "http://box.lan", "[::1]"):
        with pytest.raises(ConfigError, match="allowed_hosts"):
            GatewayConfig(allowed_hosts=host)
    assert GatewayConfig(allowed_hosts="box.lan, 10.0.0.1, fe80::1").allowed_hosts
    assert names(" a, b ,,") == ("a", "b")


@pytest.mark.parametrize("key", ["secret\n", " secret", "se cret", "schlüssel", "\x00"])
def test_an_api_key_that_no_client_can_send_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError, match="api_key: visible ASCII") as caught:
        GatewayConfig(api_key=key)
    assert "cret" not in str(caught.value)
    assert GatewayConfig(api_key="s3cret-/+=").api_key
