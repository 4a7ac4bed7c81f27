"""Weight sparsity: how many weights may be non-zero, which ones, and the learning rate that goes with it."""

from openwork.sparsity.projection import Quota, SparsityConfig, count_nonzero, project_, quotas
from openwork.sparsity.schedules import density_at, learning_rate_at, sharkfin

__all__ = [
    "Quota",
    "SparsityConfig",
    "count_nonzero",
    "density_at",
    "learning_rate_at",
    "project_",
    "quotas",
    "sharkfin",
]
