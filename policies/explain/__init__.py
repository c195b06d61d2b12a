"""Explains a plan in figures and as text."""

from policies.explain.explanation import Explanation, explain
from policies.explain.text import ranges, text_of

__all__ = ["Explanation", "explain", "ranges", "text_of"]
