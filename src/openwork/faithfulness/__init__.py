"""Faithfulness: is the circuit what the model really does? Checks beside controls that could say no."""

from openwork.faithfulness.card import verify
from openwork.faithfulness.controls import random_circuits, random_nodes

__all__ = ["random_circuits", "random_nodes", "verify"]
