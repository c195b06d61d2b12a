"""What a text depends on beside logits changes the numerics class."""

import pytest

from nodes.engine import golden as software


@pytest.mark.parametrize("package", ["Jinja2", "llguidance"])
@pytest.mark.parametrize("other", ["0.0.1", None])
def test_another_version_of_a_package_or_none_is_other_software(monkeypatch, package, other):
    def version(name):
        if name == package and other is None:
            raise software.PackageNotFoundError(name)
        return other if name == package else "1.2.3"

    monkeypatch.setattr(software, "version", lambda name: "1.2.3")
    digest = software.software_digest()
    monkeypatch.setattr(software, "version", version)
    assert software.software_digest() != digest


def test_other_sampling_is_other_software(monkeypatch):
    digest = software.software_digest()
    monkeypatch.setattr(software, "sampling_digest", lambda: "another")
    assert software.software_digest() != digest
