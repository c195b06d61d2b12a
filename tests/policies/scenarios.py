"""Scenario files for the tests of what is read of them."""

import tomllib

from airdraft.policies.scenario import ScenarioError, scenario_from

GOOD = """\
name = "a test"
token_bits = 16

[target]
used_cells = 500
prefill_share = 0.25
decode = {sizes = [1, 8], seconds = [0.04, 0.06], per_cell_s = 1e-6}
prefill = {sizes = [1, 64], seconds = [0.03, 0.2]}

[[draft]]
name = "nano"
used_cells = 70
decode = {sizes = [1, 2, 4], seconds = [0.01, 0.011, 0.013]}
[draft.link]
rate = "500 kbit/s"
rtt_ms = 12
medium = "cell"
frame_ms = 0.5

[[draft]]
name = "local"
decode = {sizes = [1], seconds = [0.02]}

[[streams]]
count = 2
acceptance = 0.75
tokens_left = 90
draft = "nano"
gamma = 3
weight = 2

[[streams]]
acceptance = 0.6
draft = "local"

[[streams]]
acceptance = 0
"""
# A device and a model instead of measured times.
ANALYTIC = """\
models = "models.toml"
[target]
device = "box.toml"
model = "tiny"
[[streams]]
acceptance = 0.5
"""
# One of two machines, neither of which holds the model.
SPLIT = """\
models = "models.toml"
[target]
device = "half-box.toml"
model = "tiny"
[[target.stage]]
name = "nano"
device = "half-box.toml"
rtt_ms = 3
[[streams]]
acceptance = 0.5
"""
DEVICE = {
    "name": "box",
    "flops_per_s": 1e12,
    "bytes_per_s": 1e11,
    "compute_efficiency": 0.5,
    "memory_efficiency": 0.5,
    "pass_overhead_s": 1e-4,
    "memory_bytes": 1e9,
}
SHAPE = {
    "layers": 2,
    "hidden_size": 64,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "ffn_size": 128,
    "vocab_size": 1000,
}
FILES = {
    "box.toml": {"device": DEVICE, "source": [{"field": "x"}]},
    "bad-box.toml": {"device": {**DEVICE, "bytes_per_s": -5}},
    "slow-box.toml": {"device": {**DEVICE, "flops_per_s": 1.0}},
    "typo-box.toml": {"device": {**DEVICE, "memory_byte": 1}},
    "keen-box.toml": {"device": {**DEVICE, "overlap": 1.5}},
    "half-box.toml": {"device": {**DEVICE, "memory_bytes": 4.0e5}},
    "empty.toml": {},
    "models.toml": {
        "model": [
            {"name": "tiny", "shape": SHAPE},
            {"name": "odd", "shape": {**SHAPE, "kv_heads": 3}},
            {"name": "huge", "shape": {**SHAPE, "layers": 10**6}},
            {"name": "unsure", "shape": {**SHAPE, "gated_ffn": 1}},
        ]
    },
    "list.toml": {"model": "tiny"},
    "shapeless.toml": {"model": [{"name": "tiny"}]},
}


def scenario(text):
    """What a file says."""
    return read(tomllib.loads(text))


def read(mapping):
    return scenario_from(mapping, "bad.toml", named)


def named(key, path):
    """As the command does it with real files."""
    if path not in FILES:
        raise ScenarioError(f"bad.toml: {key} = {path!r}: no such file")
    return FILES[path]
