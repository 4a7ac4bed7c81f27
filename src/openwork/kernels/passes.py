"""RMSNorm and GELU (both also with AbsTopK) and cross-entropy in one pass over memory each way.

Their twins are PyTorch's own operators, which are used wherever the compiled kernels cannot be, and while torch.compile
traces, which fuses them by itself.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from openwork.errors import UserError
from openwork.kernels import library
from openwork.kernels.selection import abs_topk

EPS = torch.finfo(torch.float32).eps


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., d) over the root of its mean square, times weight (d,)."""
    if library.here(x, weight) and weight.shape == x.shape[-1:]:
        return _RMSNorm.apply(x, weight, 0) if torch.is_grad_enabled() else _norm(x.contiguous(), weight)[0]
    return F.rms_norm(x, weight.shape, weight, EPS)  # PyTorch's own would be another for every type


def rms_norm_abs_topk(x: Tensor, weight: Tensor, k: int) -> Tensor:
    """AbsTopK of the RMSNorm of x (..., d), see `openwork.kernels.abs_topk`."""
    if not library.here(x, weight) or weight.shape != x.shape[-1:] or not 1 <= k < x.shape[-1]:
        return abs_topk(rms_norm(x, weight), k)
    return _RMSNorm.apply(x, weight, k) if torch.is_grad_enabled() else _norm(x.contiguous(), weight, k)[0]


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function of x."""
    if library.here(x):
        return _GELU.apply(x) if torch.is_grad_enabled() else _gelu(x.contiguous())
    return F.gelu(x)


def gelu_abs_topk(x: Tensor, k: int) -> Tensor:
    """AbsTopK of the GELU of x (..., d), see `openwork.kernels.abs_topk`."""
    if not library.here(x) or not 1 <= k < x.shape[-1]:
        return abs_topk(gelu(x), k)
    return _GELUAbsTopK.apply(x, k) if torch.is_grad_enabled() else _gelu_abs_topk(x.contiguous(), k, None)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of -log softmax(logits)[target], in nats, of logits (n, d) and targets (n,), int64 in [0, d).

    Raises:
        UserError: a target that is not in [0, d).
    """
    fits = targets.dim() == 1 and len(targets) > 0 and targets.shape == logits.shape[:-1]
    if not fits or not library.here(logits) or not targets.is_cpu or targets.dtype != torch.int64:
        return F.cross_entropy(logits, targets)
    low, high = targets.aminmax()
    if not 0 <= int(low) <= int(high) < logits.shape[-1]:
        raise UserError(f"targets lie between {int(low)} and {int(high)}; they must lie in [0, {logits.shape[-1]})")
    return _CrossEntropy.apply(logits, targets)


def _norm(x: Tensor, weight: Tensor, k: int = 0, zero_cut: Tensor | None = None) -> tuple[Tensor, Tensor]:
    y, scales, d = torch.empty_like(x), x.new_empty(x.shape[:-1]), x.shape[-1]
    library.call("rms_norm", x, weight.contiguous(), y, scales, zero_cut, scales.numel(), d, k, EPS)
    return y, scales


def _gelu(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    library.call("gelu", x, y, x.numel())
    return y


def _gelu_abs_topk(x: Tensor, k: int, slopes: Tensor | None) -> Tensor:
    y, d = torch.empty_like(x), x.shape[-1]
    library.call("gelu_abs_topk", x, y, slopes, x.numel() // d, d, k)
    return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, k: int) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        zero_cut = x.new_empty(x.shape[:-1], dtype=torch.int32) if k else None
        y, scales = _norm(x, weight, k, zero_cut)
        ctx.save_for_backward(y if k else None, zero_cut, x, weight, scales)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, zero_cut, x, weight, scales = ctx.saved_tensors
        parts, d, dx = torch.get_num_threads(), x.shape[-1], torch.empty_like(x)
        dweights, inputs = x.new_empty(parts, d), (dy.contiguous(), y, zero_cut, x, weight, scales)
        library.call("rms_norm_backward", *inputs, dx, dweights, scales.numel(), d, parts)
        return dx, dweights.sum(0), None


class _GELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        return _gelu(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        dx = torch.empty_like(x)
        library.call("gelu_backward", dy.contiguous(), x, dx, x.numel())
        return dx


class _GELUAbsTopK(torch.autograd.Function):
    """Saves slopes where entries were kept instead of x: as much memory, and nothing to compute on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        slopes = x.new_empty(x.shape)
        ctx.save_for_backward(slopes)
        return _gelu_abs_topk(x.contiguous(), k, slopes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (slopes,) = ctx.saved_tensors
        return library.gelu_abs_topk_backward(dy, slopes), None


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        logits, targets = logits.contiguous(), targets.contiguous()
        losses, lse = logits.new_empty(2, *targets.shape)
        library.call("cross_entropy", logits, targets, losses, lse, *logits.shape)
        ctx.save_for_backward(logits, targets, lse)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, targets, lse = ctx.saved_tensors
        dlogits, n = torch.empty_like(logits), len(targets)
        library.call("cross_entropy_backward", logits, targets, lse, dlogits, float(dy) / n, *logits.shape)
        return dlogits, None
