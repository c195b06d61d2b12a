"""Explains a plan in figures and as text."""

from policies.explain.explanation import Compared, Explanation, as_object, explain
from policies.explain.text import text_of

__all__ = ["Compared", "Explanation", "as_object", "explain", "text_of"]
