"""Products with a dense weight at the cost of the activations that are not zero.

    y = linear(x, weight, bias)  # F.linear; what AbsTopK made zero of x, and of y's gradient, costs nothing

AbsTopK leaves a quarter of what a layer reads, and lets a quarter of the gradient of what it writes pass, so all three
products of a dense layer, y, dX and dW, have a factor that is mostly zero.

A zero that is skipped multiplies nothing: a NaN or an infinity in the weight reaches the tokens whose activation there
is not zero; where nothing is skipped it reaches all.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.kernels import library

MOSTLY_ZERO = 1 / 2
"""The fraction of non-zeros up to which a product that skips zeros is the faster one (`openwork bench kernels`)."""
SAMPLED = 16
"""One row in so many is counted to know that fraction."""
FEW_SUMS = 2**23
"""Products of fewer multiply-adds do not skip."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, selected: bool = False) -> Tensor:
    """F.linear of x (..., d_in) with a weight (d_out, d_in), skipping zeros; `selected` says that AbsTopK is next.

    Where x is not mostly zero and AbsTopK is not next, or the compiled kernels are not there, this is F.linear itself.
    """
    inputs = (x, weight) if bias is None else (x, weight, bias)
    fits = (
        x.shape[-1] == weight.shape[1] and weight.is_contiguous() and (bias is None or bias.shape == weight.shape[:1])
    )
    if fits and library.here(*inputs) and not torch.is_autocast_enabled("cpu"):
        x_NI = x.reshape(-1, x.shape[-1]).contiguous()
        if (selected and torch.is_grad_enabled()) or _skips(x_NI, weight.shape[0]):
            return _Linear.apply(x_NI, weight, bias).view(*x.shape[:-1], weight.shape[0])
    return F.linear(x, weight, bias)


def matmul(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (M, K) times b (K, N), plus bias (N,), skipping zeros of a where it is mostly zero.

    Each of both is contiguous, or its transpose is. What skips is not differentiable, so with gradients nothing does.
    """
    if not torch.is_grad_enabled() and library.here(a, b) and _skips(a, b.shape[1]):
        return library.skipping_product(a, b, bias)
    return a @ b if bias is None else torch.addmm(bias, a, b)


def dense_gradients(dy: Tensor, x: Tensor, for_weight: bool, for_bias: bool) -> tuple[Tensor | None, Tensor | None]:
    """From dy (..., d_out) and x (..., d_in): the gradients of a weight, zeros and all, and of a bias, if wanted."""
    dy_NO = dy.reshape(-1, dy.shape[-1]).contiguous()
    dw = matmul(dy_NO.T, x.reshape(-1, x.shape[-1]).contiguous()) if for_weight else None
    return dw, dy_NO.sum(0) if for_bias else None


def _skips(a: Tensor, n: int) -> bool:
    """Whether to skip the zeros of a (M, K) in a product with n columns."""
    return a.numel() * n >= FEW_SUMS and mostly_zero(a if a.is_contiguous() else a.T)


def mostly_zero(x: Tensor, most: float = MOSTLY_ZERO) -> bool:
    """Whether at most that fraction of the sampled rows of x (N, width) is not zero."""
    sample = x[::SAMPLED]
    return int(torch.count_nonzero(sample)) <= most * sample.numel()


class _Linear(torch.autograd.Function):
    """x (N, I) times a weight (O, I), plus a bias (O,) or None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight.T, bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x, weight), (for_x, *others) = ctx.saved_tensors, ctx.needs_input_grad
        dy = dy.contiguous()
        return matmul(dy, weight) if for_x else None, *dense_gradients(dy, x, *others)
