"""A step of Adam: one pass over memory where the kernels are compiled, and on a GPU."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.kernels import library, twins
from openwork.kernels.on_gpu import gpu_kernels


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

    Raises:
        UserError: the shapes differ.
    """
    wanted = [(parameter, gradient, exp_avg, exp_avg_sq, decay)]
    adam_step_each_(wanted, n=n, rate=rate, betas=betas, eps=eps, scale=scale)


@torch.no_grad()
def adam_step_each_(
    wanted: Iterable[tuple[Tensor, Tensor, Tensor, Tensor, float]],
    *,
    n: int,
    rate: float,
    betas: tuple[float, float],
    eps: float,
    scale: float = 1.0,
) -> None:
    """`adam_step_` for each (parameter, gradient, exp_avg, exp_avg_sq, decay): on a GPU for all at once."""
    size, root = rate / (1 - betas[0] ** n), (1 - betas[1] ** n) ** 0.5
    on_gpu: dict[float, list[tuple[Tensor, ...]]] = {}
    for parameter, gradient, exp_avg, exp_avg_sq, decay in wanted:
        tensors = parameter, gradient, exp_avg, exp_avg_sq
        if not parameter.shape == gradient.shape == exp_avg.shape == exp_avg_sq.shape:
            shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
            raise UserError(f"a parameter, its gradient and its moments have the shapes {shapes}, not one")
        if (gpu := gpu_kernels(parameter)) and all(gpu.can_step(x) for x in tensors):
            on_gpu.setdefault(decay, []).append(tensors)
        else:
            kernels = library if library.usable(*tensors) else twins
            kernels.adam_step_(*tensors, scale, *betas, eps, size, root, 1 - rate * decay)
    for decay, each in on_gpu.items():
        gpu_kernels(each[0][0]).adam_step_each_(each, scale, *betas, eps, size, root, 1 - rate * decay)
