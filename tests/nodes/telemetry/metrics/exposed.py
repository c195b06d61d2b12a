"""A real exposition of everything, read back by the library's own parser."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from airdraft.nodes.telemetry.metrics.gateway import GatewayMetrics
from airdraft.nodes.telemetry.metrics.mesh import MeshMetrics
from tests.nodes.status_examples import STATUS

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(text: bytes) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


def value_of(text: bytes, name: str, **labels: str) -> float | None:
    """The sample airdraft_NAME with these labels, None if there is none."""
    return samples_of(text).get((f"airdraft_{name}", frozenset(labels.items())))


def everything() -> Samples:
    """Of a mesh and a gateway that have done something."""
    gateway = GatewayMetrics(["/v1/completions"])
    request = gateway.request_started("/v1/completions")
    request.tokens_came(0, 1)
    request.finished(200)
    return samples_of(generate_latest(MeshMetrics(STATUS)) + generate_latest(gateway.registry))
