"""The model: one file that reads like the paper, the names of its sites, and its attention."""

from openwork.model.means import mean_activations
from openwork.model.sites import (
    FINAL_SITE,
    NODE_SITES,
    ablated_sites,
    all_sites,
    circuit_sites,
    node_name,
    node_sites,
    parse_node,
)
from openwork.model.size import check_memory
from openwork.model.transformer import ModelConfig, Transformer
from openwork.model.wiring import Matrix, matrices

__all__ = [
    "FINAL_SITE",
    "NODE_SITES",
    "Matrix",
    "ModelConfig",
    "Transformer",
    "ablated_sites",
    "all_sites",
    "check_memory",
    "circuit_sites",
    "matrices",
    "mean_activations",
    "node_name",
    "node_sites",
    "parse_node",
]
