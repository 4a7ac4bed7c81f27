"""Pruning: the search for a circuit: gates on nodes and on single weights, and closing what is not needed."""

from openwork.pruning.config import PruneConfig
from openwork.pruning.edges import count_possible_edges, edges_between
from openwork.pruning.search import ablation_values, prune

__all__ = ["PruneConfig", "ablation_values", "count_possible_edges", "edges_between", "prune"]
