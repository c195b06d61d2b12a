"""Texts are the same on every CPU: fixed values of sampling, here and with CPU features off.

`python -m bench portable` repeats them on other CPUs, emulated.
"""

import contextlib
import io
import platform
import re
import shutil

import numpy as np
import pytest

from bench.portable import emulated_x86
from nodes.engine import golden
from nodes.engine.golden import sampling_digest, software_digest
from tests.engine.printed import printed

# It changes with SAMPLING_VERSION, and never without.
DIGEST = "ae6b485d05c74f6f"
SHOW = "from nodes.engine.golden import sampling_digest; print(sampling_digest())"


def test_the_digest_is_what_it_was():
    assert sampling_digest() == DIGEST


def found_features():
    """What numpy dispatches by that this CPU has; none of it need be there."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        np.show_runtime()
    found = re.search(r"'found': \[(.*?)\]", shown.getvalue(), re.DOTALL)
    return re.findall(r"'(\w+)'", found[1])


@pytest.mark.timeout(400)
def test_the_digest_does_not_depend_on_the_cpu_features_that_numpy_uses():
    """Once without each of them alone, and once without all."""
    features = found_features()
    if not features:
        pytest.skip("numpy uses nothing of this CPU that could be left out")
    for off in {(name,) for name in features} | {tuple(features)}:
        without = " ".join(off)
        assert printed(SHOW, NPY_DISABLE_CPU_FEATURES=without) == DIGEST, f"without {without}"


@pytest.mark.timeout(700)
@pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("qemu-x86_64") is None,
    reason="QEMU's x86 is not here",
)
def test_the_digest_is_the_same_on_an_x86_without_fma():
    assert emulated_x86("Nehalem") == DIGEST


def test_the_digest_is_another_where_a_function_of_numpy_is_wrong(monkeypatch):
    right = np.log
    monkeypatch.setattr(np, "log", lambda *args, **names: right(*args, **names) * (1 + 1e-9))
    assert sampling_digest() != DIGEST


@pytest.mark.parametrize("package", ["Jinja2", "llguidance"])
@pytest.mark.parametrize("other", ["0.0.1", None])
def test_another_version_of_a_package_or_none_is_other_software(monkeypatch, package, other):
    def version(name):
        if name == package and other is None:
            raise golden.PackageNotFoundError(name)
        return other if name == package else "1.2.3"

    monkeypatch.setattr(golden, "version", lambda name: "1.2.3")
    digest = software_digest()
    monkeypatch.setattr(golden, "version", version)
    assert software_digest() != digest


def test_other_sampling_is_other_software(monkeypatch):
    digest = software_digest()
    monkeypatch.setattr(golden, "sampling_digest", lambda: "another")
    assert software_digest() != digest
