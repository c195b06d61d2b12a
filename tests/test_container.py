"""compose.yaml and the image: no role is root or sees another's files, and each starts again."""

import re
from pathlib import Path

import pytest
import yaml  # noqa: TID251 - the form of compose files, read as data

from tests.test_deployment import parse

FOLDER = Path(__file__).parents[1] / "packaging" / "container"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
ROLES = ("coordinator", "target", "draft", "gateway")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges"]
    assert not {"privileged", "user", "cap_add", "devices"} & service.keys()
    assert service["restart"] == ("unless-stopped" if name in ROLES else "no")
    assert ("healthcheck" in service) == (name in ROLES)


def test_roles_see_no_keys_of_each_other_and_only_the_gateway_is_published() -> None:
    seen = [{volume.split(":")[0] for volume in SERVICES[role]["volumes"]} for role in ROLES]
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert set.union(*seen) <= COMPOSE["volumes"].keys()
    published = {role: SERVICES[role]["ports"] for role in ROLES if "ports" in SERVICES[role]}
    assert published == {"gateway": ["127.0.0.1:8080:8080"]}
    inside = [role for role in ROLES if SERVICES[role]["networks"] == ["mesh"]]
    assert inside == list(ROLES[:3])
    assert COMPOSE["networks"]["mesh"]["internal"]


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_runs_is_a_command(role: str) -> None:
    words = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in SERVICES[role]["command"]]
    assert words[0] == role
    parse(words)


def test_the_image_runs_as_a_user_and_has_all_that_it_copies() -> None:
    text = (FOLDER / "Containerfile").read_text()
    users = re.findall(r"^USER (\S+)", text, flags=re.MULTILINE)
    assert users == ["7411:7411"]
    ignored = (FOLDER / "Containerfile.dockerignore").read_text().split()
    copied = re.findall(r"^COPY (?:--chmod=755 )?(packaging\S+)", text, flags=re.MULTILINE)
    assert copied
    for name in copied:
        assert f"!{name}" in ignored
        assert (FOLDER.parents[1] / name).is_file()
