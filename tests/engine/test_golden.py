"""Texts are the same on every CPU: fixed values of sampling, here and with CPU features off.

`python -m bench portable` repeats them on other CPUs, emulated.
"""

import contextlib
import io
import os
import platform
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bench.portable import emulated_x86
from nodes.engine.golden import sampling_digest

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
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(off)}
        shown = subprocess.run(
            [sys.executable, "-c", SHOW],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert shown.stdout.strip() == DIGEST, f"without {' '.join(off)}"


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
