"""The kernels: one function each, compiled where a C++ compiler was found, else its twin in plain PyTorch.

All are exact. `OPENWORK_KERNELS=torch` in the environment chooses the twins.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.kernels import native, twins

__all__ = ["abs_topk", "compiled", "keep_topk_"]

compiled = native.library is not None
"""Whether the compiled kernels are used for float32 tensors in main memory."""


def abs_topk(x: Tensor, k: int) -> Tensor:
    """AbsTopK (paper, A.1): x (..., d) with the k largest magnitudes of each row kept, zeros elsewhere; differentiable.

    Exactly k entries are kept, of equal ones those of lower index. NaN counts as larger than everything, so it is kept and seen.
    The gradient reaches every kept entry, also one whose value is zero.

    Raises:
        UserError: k is not between 1 and d.
    """
    if not 1 <= k <= x.shape[-1]:
        raise UserError(f"AbsTopK cannot keep {k} of {x.shape[-1]} channels; k must lie between 1 and {x.shape[-1]}")
    return x if k == x.shape[-1] else _AbsTopK.apply(x, k)


class _AbsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        y, zero_cut = (native if native.usable(x) else twins).abs_topk(x, k)
        ctx.save_for_backward(y, zero_cut)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        y, zero_cut = ctx.saved_tensors
        return (native if native.usable(y) else twins).abs_topk_backward(dy, y, zero_cut), None


@torch.no_grad()
def keep_topk_(weight: Tensor, k: int, floor: int = 0, axis: Literal[0, 1] = 1) -> None:
    """Zero, in place, all but the k largest magnitudes of weight (n,) or (rows, cols).

    With a `floor`, every row (axis 1) or column (axis 0) keeps its own `floor` largest; they come first, and the rest of the k
    are the largest of all others. Exactly k entries are kept, of equal ones those of lower flat index; NaN is kept first.

    Raises:
        UserError: k is larger than the tensor, or smaller than the floors need.
    """
    matrix = weight.unsqueeze(0) if weight.dim() == 1 else weight
    lines, length = (matrix.shape[0], matrix.shape[1]) if axis == 1 else (matrix.shape[1], matrix.shape[0])
    floor = min(floor, length)
    if not max(1, lines * floor) <= k <= weight.numel():
        raise UserError(
            f"cannot keep {k} of {weight.numel()} weights of shape {tuple(weight.shape)} with a floor of {floor} for each of "
            f"{lines}; k must lie between {max(1, lines * floor)} and {weight.numel()}"
        )
    (native if native.usable(matrix) and matrix.is_contiguous() else twins).keep_topk_(matrix, k, floor, axis)
