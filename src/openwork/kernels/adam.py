"""A step of Adam over one tensor: one pass over memory where the kernels are compiled."""

from __future__ import annotations

import torch
from torch import Tensor

from openwork.kernels import library, twins


@torch.no_grad()
def adam_step_(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    n: int,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    decay: float = 0.0,
    scale: float = 1.0,
) -> None:
    """The `n`-th step (from 1) of Adam with decoupled weight decay, in place; tensors of one shape.

    The gradient is first multiplied by `scale`. Both moments are corrected for having started at zero.
    """
    size, root = rate / (1 - betas[0] ** n), (1 - betas[1] ** n) ** 0.5
    kernels = library if library.usable(parameter, gradient, exp_avg, exp_avg_sq) else twins
    kernels.adam_step_(parameter, gradient, exp_avg, exp_avg_sq, scale, *betas, eps, size, root, 1 - rate * decay)
