"""Texts are the same on every CPU: fixed values of sampling, here and with CPU features off.

`python -m bench portable` repeats them on other CPUs, emulated.
"""

import contextlib
import io
import itertools
import platform
import re
import shutil

import numpy as np
import pytest

from airdraft.nodes.engine import golden
from airdraft.nodes.engine.golden import sampling_digest, software_digest
from bench.portable import emulated_x86
from tests.engine.printed import printed

# It changes with SAMPLING_VERSION, and never without.
DIGEST = "ae6b485d05c74f6f"
SHOW = "from airdraft.nodes.engine.golden import sampling_digest; print(sampling_digest())"


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


def test_other_versions_of_packages_or_none_and_other_sampling_are_other_software(monkeypatch):
    installed = {}

    def version(name):
        if (found := installed.get(name, "1.2.3")) is None:
            raise golden.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(golden, "version", version)
    digests = [software_digest()]
    for package, other in itertools.product(("Jinja2", "llguidance"), ("0.0.1", None)):
        installed = {package: other}
        digests.append(software_digest())
    installed = {}
    monkeypatch.setattr(golden, "sampling_digest", lambda: "another")
    assert len({*digests, software_digest()}) == 6


def test_other_words_for_tools_and_other_grammars_are_other_software(monkeypatch):
    digests = {software_digest()}
    others = {"tools_as_text": lambda talk, tools: [], "lark_of": lambda grammar: "", "LIMITS": {}}
    for name, other in others.items():
        with monkeypatch.context() as patch:
            patch.setattr(golden, name, other)
            digests.add(software_digest())
    assert len(digests) == 4
