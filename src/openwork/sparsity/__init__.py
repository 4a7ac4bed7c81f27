"""Weight sparsity: how many weights may be non-zero, which ones, and the learning rate that goes with it."""

from openwork.sparsity.engine import SparseLinear, use_sparse_layers
from openwork.sparsity.kept import KeptAdam
from openwork.sparsity.optimizer import Adam, AdamConfig
from openwork.sparsity.projection import Quota, SparsityConfig, count_nonzero, project_, quotas
from openwork.sparsity.schedules import density_at, learning_rate_at, sharkfin

__all__ = [
    "Adam",
    "AdamConfig",
    "KeptAdam",
    "Quota",
    "SparseLinear",
    "SparsityConfig",
    "count_nonzero",
    "density_at",
    "learning_rate_at",
    "project_",
    "quotas",
    "sharkfin",
    "use_sparse_layers",
]
