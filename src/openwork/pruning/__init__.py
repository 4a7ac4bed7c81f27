"""Pruning: the search for a circuit: gates on nodes and on single weights, and closing what is not needed."""

from openwork.pruning.baselines import baselines
from openwork.pruning.config import PruneConfig
from openwork.pruning.curve import draw_curve, prune_to_targets
from openwork.pruning.edges import count_possible_edges, edges_between
from openwork.pruning.loading import load_circuit
from openwork.pruning.problem import ablation_values
from openwork.pruning.search import prune

__all__ = [
    "PruneConfig",
    "ablation_values",
    "baselines",
    "count_possible_edges",
    "draw_curve",
    "edges_between",
    "load_circuit",
    "prune",
    "prune_to_targets",
]
