"""The selections of the method: which activations of a row, and which weights of a matrix, are the largest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.kernels import library, twins
from openwork.kernels.on_gpu import gpu_kernels
from openwork.kernels.operators import operators


def abs_topk(x: Tensor, k: int) -> Tensor:
    """AbsTopK (paper, A.1): x (..., d) with the k largest magnitudes of each row kept, zeros elsewhere.

    Exactly k entries of each row are kept, of equal ones those of lower index; k = d gives x itself. NaN counts as
    larger than everything: it is kept, and so seen. Differentiable once; the gradient reaches every kept entry, also
    one whose value is zero.

    Raises:
        UserError: k is not between 1 and d.
    """
    d = x.shape[-1] if x.dim() else 0
    if not 1 <= k <= d:
        raise UserError(f"AbsTopK cannot keep {k} of {d} channels; k must lie between 1 and {d}")
    if k == d:
        return x
    if library.tracing():
        return torch.ops.openwork.abs_topk(x, k)[0]
    if torch.is_grad_enabled():
        return _AbsTopK.apply(x, k)
    return library.abs_topk_alone(x, k) if library.usable(x) else _forward(x, k)[0]


def _kernels(*tensors: Tensor) -> Any:
    """The module whose `abs_topk` these tensors (..., d) go through."""
    if (gpu := gpu_kernels(tensors[0])) and all(gpu.usable(x) for x in tensors):
        return gpu
    return library if library.usable(*tensors) else twins


def _forward(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return _kernels(x).abs_topk(x, k)


def _backward(dy: Tensor, y: Tensor, zero_cut: Tensor) -> Tensor:
    return _kernels(dy, y).abs_topk_backward(dy, y, zero_cut)


operators.define("abs_topk(Tensor x, int k) -> (Tensor y, Tensor zero_cut)")
operators.define("abs_topk_backward(Tensor dy, Tensor y, Tensor zero_cut) -> Tensor")
operators.impl("abs_topk", _forward, "CompositeExplicitAutograd")
operators.impl("abs_topk_backward", _backward, "CompositeExplicitAutograd")


@torch.library.register_fake("openwork::abs_topk", lib=operators)
def _(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    return y, x.new_empty(x.shape[:-1], dtype=torch.int32)


@torch.library.register_fake("openwork::abs_topk_backward", lib=operators)
def _(dy: Tensor, y: Tensor, zero_cut: Tensor) -> Tensor:
    return torch.empty_like(y)


def _save(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output)


@torch.autograd.function.once_differentiable
def _gradient(ctx: Any, dy: Tensor, _: None) -> tuple[Tensor, None]:
    return torch.ops.openwork.abs_topk_backward(dy, *ctx.saved_tensors), None


torch.library.register_autograd("openwork::abs_topk", _gradient, setup_context=_save, lib=operators)


class _AbsTopK(torch.autograd.Function):
    """Calls the kernel itself: the operator costs some 10 us more a call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        y, zero_cut = _forward(x, k)
        ctx.save_for_backward(y, zero_cut)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _backward(dy, *ctx.saved_tensors), None


@torch.no_grad()
def keep_topk_(weight: Tensor, k: int, floor: int = 0, axis: Literal[0, 1] = 1) -> None:
    """Zero, in place, all but the k largest magnitudes of weight (n,) or (rows, cols).

    With a `floor`, every row (axis 1: counted along the inputs of each output) or column (axis 0) keeps its own `floor`
    largest, or all that it has: these come first, and the rest of the k are the largest of all others. A vector is one
    row. Exactly k entries are kept, of equal ones those of lower flat index; NaN counts as larger than everything.

    Raises:
        UserError: k is larger than the tensor or smaller than the floors need, or weight has no or more than two axes.
    """
    keep_topk_each_([(weight, k, floor, axis)])


@torch.no_grad()
def keep_topk_each_(wanted: Iterable[tuple[Tensor, int, int, Literal[0, 1]]]) -> None:
    """`keep_topk_` for each (weight, k, floor, axis); the compiled kernels, or a GPU's, take all of them at once."""
    together: dict[Any, list[tuple[Tensor, int, int, Literal[0, 1]]]] = {}
    for weight, k, floor, axis in wanted:
        weight, floor, axis = _check(weight, k, floor, axis)
        if k == 0:
            weight.zero_()
        elif k < weight.numel():
            together.setdefault(_keeping(weight, floor, axis), []).append((weight, k, floor, axis))
    for kernels, each in together.items():
        kernels.keep_topk_each_(each)


def _keeping(weight: Tensor, floor: int, axis: Literal[0, 1]) -> Any:
    """The module whose `keep_topk_each_` this weight goes through."""
    if (gpu := gpu_kernels(weight)) and gpu.can_keep(weight, floor, axis):
        return gpu
    return library if library.usable(weight) else twins


def _check(weight: Tensor, k: int, floor: int, axis: Literal[0, 1]) -> tuple[Tensor, int, Literal[0, 1]]:
    """The weight as a matrix, and the floor and axis that this gives; a `UserError` if k of it can't be kept."""
    if weight.dim() not in (1, 2):
        raise UserError(f"cannot select weights of shape {tuple(weight.shape)}; it must have one or two axes")
    if weight.dim() == 1:
        weight, axis = weight.unsqueeze(0), 1
    lines, length = weight.shape if axis == 1 else weight.shape[::-1]
    floor = min(floor, length)
    if not lines * floor <= k <= weight.numel() or floor < 0:
        raise UserError(
            f"cannot keep {k} of {weight.numel()} weights of shape {tuple(weight.shape)} with a floor of {floor} for "
            f"each of {lines} {'rows' if axis == 1 else 'columns'}; "
            f"k must lie between {lines * floor} and {weight.numel()}"
        )
    return weight, floor, axis
