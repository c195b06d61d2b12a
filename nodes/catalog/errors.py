"""Errors about model files. Every message is one line: what, where, what to do."""


class CatalogError(Exception):
    """A model could not be found, fetched or stored."""


class ModelNameError(CatalogError):
    """A mistake of the user: an unknown name, a model not pulled, terms of use that were not
    accepted, a file that is no whole GGUF."""


class FetchError(CatalogError):
    """One source failed; another one may work."""


class HubUnreachableError(FetchError):
    """The Hub's name does not resolve, or its connection is refused."""
