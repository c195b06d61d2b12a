from tests.nodes.catalog.fakes import hub

__all__ = ["hub"]
