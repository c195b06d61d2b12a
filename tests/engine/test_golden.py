"""Texts are the same on every CPU: fixed values of sampling, here and with CPU features off.

`python -m bench portable` repeats them on other CPUs, emulated.
"""

import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bench.portable import emulated_x86
from nodes.engine.golden import SAMPLINGS, golden_tokens, sampling_digest
from nodes.engine.noise import gumbel_noise

# It changes with SAMPLING_VERSION, and never without.
DIGEST = "ae6b485d05c74f6f"
NOISE = {
    (0, 0, 0, 0): "-0x1.ad44be24ae33cp-1",
    (0, 0, 0, 1): "-0x1.1bc3ce5a2f632p-1",
    (42, 0, 17, 49151): "0x1.0185be9d5bf34p+1",
    (42, 1, 17, 49151): "0x1.01acae58ee544p-1",
    (2**63 - 1, 2**32 - 1, 2**31 - 1, 151935): "-0x1.0a921a60c7a89p-1",
}
TOKENS = [
    [252, 1443, 1280, 2050],
    [1181, 2736, 427, 2050],
    [2051, 2029, 1630, 1321],
    [2775, 2980, 28, 475],
    [1617, 2516, 1167, 1349],
    [1197, 1017, 1869, 1875],
    [2310, 289, 1852, 2540],
    [597, 2359, 1692, 1029],
    [2494, 2056, 177, 985],
]
SHOW = "from nodes.engine.golden import sampling_digest; print(sampling_digest())"


@pytest.mark.parametrize("place", list(NOISE))
def test_the_noise_of_a_place_is_what_it_was(place):
    seed, choice, position, token_id = place
    assert gumbel_noise(seed, choice, position, [token_id])[0].hex() == NOISE[place]


@pytest.mark.parametrize("index", range(len(SAMPLINGS)))
def test_the_tokens_of_fixed_logits_are_what_they_were(index):
    assert golden_tokens(SAMPLINGS[index]) == TOKENS[index]


def test_the_digest_is_what_it_was():
    assert sampling_digest() == DIGEST


def found_features():
    """What numpy dispatches by that this CPU has; none of it need be there."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return [name for name in __cpu_dispatch__ if __cpu_features__[name]]


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
