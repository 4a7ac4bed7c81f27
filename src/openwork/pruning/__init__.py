"""Pruning: gates on nodes, the search for a circuit, and its edges."""

from openwork.pruning.edges import count_possible_edges, edges_between
from openwork.pruning.loading import load_circuit
from openwork.pruning.search import PruneConfig, ablation_values, prune

__all__ = ["PruneConfig", "ablation_values", "count_possible_edges", "edges_between", "load_circuit", "prune"]
