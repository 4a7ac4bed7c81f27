"""The model: one file that reads like the paper, the names of its sites, and its attention."""

from openwork.model.means import mean_activations
from openwork.model.sites import NODE_SITES, all_sites, node_name, node_sites, parse_node
from openwork.model.size import check_memory
from openwork.model.transformer import ModelConfig, Transformer

__all__ = [
    "NODE_SITES",
    "ModelConfig",
    "Transformer",
    "all_sites",
    "check_memory",
    "mean_activations",
    "node_name",
    "node_sites",
    "parse_node",
]
