"""Frontier: how large the circuits of one model are beside those of another, task by task."""

from openwork.frontier.compare import Comparison, compare
from openwork.frontier.figure import draw_comparison

__all__ = ["Comparison", "compare", "draw_comparison"]
