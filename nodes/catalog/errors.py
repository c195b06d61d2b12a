"""Errors about model files. Every message is one line: what, where, what to do."""


class CatalogError(Exception):
    """A model could not be found, fetched or stored."""


class ModelNameError(CatalogError):
    """A mistake of the user: an unknown name, a model not pulled, a file that is no whole GGUF."""


class TermsError(ModelNameError):
    """The model has terms of use that the user has not accepted yet."""

    def __init__(self, name: str, terms: str) -> None:
        super().__init__(
            f"model {name} has terms of use: read them with "
            f"`airdraft models pull {name}`, then accept them with --accept-terms"
        )
        self.terms = terms


class FetchError(CatalogError):
    """One source failed; another one may work."""
