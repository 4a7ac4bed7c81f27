"""Linear maps whose weight is mostly zero, at the cost of the weights that are not.

    w = compress(weight)                  # by rows, and by columns for the way back
    y = sparse_linear(x, w, bias)         # gradients for x, for w.values, and for the bias
    y = sparse_linear(x, w, bias, watched)  # the same y; gradients for watched.values instead, zeros of w among them
    y = exact_linear(x, weight, w, bias)  # the same y; gradients for x and, dense, for the whole of weight
    y = sparse_vector(x, w, t_values, bias)  # the same y for a few tokens; no gradients

The first three also give AbsTopK of y (k=...), or of its GELU (gelu=True): in one pass over memory.

A weight that is zero multiplies nothing: a NaN or an infinity in x reaches the outputs that have a weight for it, in a
dense product all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from openwork.kernels import library, twins
from openwork.kernels.operators import operators
from openwork.kernels.passes import gelu_abs_topk
from openwork.kernels.selection import abs_topk

MOST_ENTRIES = 2**31 - 1


@dataclass(frozen=True)
class SparseWeight:
    """The n non-zeros of a weight (d_out, d_in); every index is int32."""

    shape: tuple[int, int]
    starts: Tensor
    """(d_out + 1,): where the non-zeros of each output begin."""
    columns: Tensor
    """(n,): the input that each reads."""
    values: Tensor
    """(n,)"""
    t_starts: Tensor
    """(d_in + 1,): where, sorted by input, those of each input begin."""
    t_rows: Tensor
    """(n,): their outputs."""
    order: Tensor
    """(n,): their places in ``values``."""

    @cached_property
    def flat(self) -> Tensor:
        """Places (n,), int64, of the non-zeros in the flat dense weight, ascending."""
        rows = torch.arange(self.shape[0], device=self.starts.device).repeat_interleave(self.starts.diff())
        return rows * self.shape[1] + self.columns

    @property
    def density(self) -> float:
        """Fraction of the entries that are not zero."""
        return len(self.values) / (self.shape[0] * self.shape[1])


def compress(weight: Tensor) -> SparseWeight:
    """The non-zeros of weight (d_out, d_in); NaN is one, -0 is none."""
    assert weight.dim() == 2 and weight.numel() <= MOST_ENTRIES, tuple(weight.shape)
    parts = (library if library.usable(weight) else twins).compress(weight)
    return SparseWeight((weight.shape[0], weight.shape[1]), *parts)


def sparse_linear(
    x: Tensor,
    weight: SparseWeight,
    bias: Tensor | None = None,
    watched: SparseWeight | None = None,
    *,
    k: int = 0,
    gelu: bool = False,
) -> Tensor:
    """x (..., d_in) times weight (d_out, d_in), plus bias (d_out,). Differentiable once, for ``weight.values`` too.

    Where `watched` is given, ``watched.values`` get the gradient instead: that of the weight at every place in it, be
    the weight there zero or not. Nothing is multiplied by these values.

    If k > 0, the result is AbsTopK of that or, with `gelu`, of its GELU; see `openwork.kernels.abs_topk`.
    """
    w, index = weight, (weight.starts, weight.columns, weight.t_starts, weight.t_rows, weight.order)
    learnt, others = (w.values, ()) if watched is None else (watched.values, (w.values, watched.starts, watched.columns))
    return _apply(_SparseLinear, x, learnt, w, bias, k, gelu, *index, *others)


def sparse_vector(x: Tensor, weight: SparseWeight, t_values: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `sparse_linear` without gradients, for a few tokens at a time: skips zeros of x as well.

    t_values are ``weight.values[weight.order]``, which the caller keeps as long as the values stay the same.
    """
    inputs = (x, t_values) if bias is None else (x, t_values, bias)
    kernels = library if library.usable(*inputs) else twins
    return kernels.sparse_vector(x, weight.t_starts, weight.t_rows, t_values, bias, weight.shape[0])


def exact_linear(
    x: Tensor, dense: Tensor, weight: SparseWeight, bias: Tensor | None = None, *, k: int = 0, gelu: bool = False
) -> Tensor:
    """As `sparse_linear`, `weight` being `dense` compressed; but ``dense`` gets its gradient, zeros and all."""
    w = weight
    index = (w.starts, w.columns, w.values, w.t_starts, w.t_rows, w.order)
    return _apply(_ExactLinear, x, dense, w, bias, k, gelu, *index)


def _apply(
    function: type[torch.autograd.Function],
    x: Tensor,
    learnt: Tensor,
    weight: SparseWeight,
    bias: Tensor | None,
    k: int,
    gelu: bool,
    *index: Tensor,
) -> Tensor:
    """The product, and AbsTopK of it: by one kernel where there is one, else by one after the other."""
    d_out, inputs = weight.shape[0], (x, weight.values) if bias is None else (x, weight.values, bias)
    if not 0 < k < d_out or not library.here(*inputs):
        y = function.apply(x, learnt, bias, 0, False, *index)
        return y if k == 0 else gelu_abs_topk(y, k) if gelu else abs_topk(y, k)
    if not torch.is_grad_enabled():
        return library.sparse_linear(x, weight.starts, weight.columns, weight.values, bias, d_out, k, gelu)
    return function.apply(x, learnt, bias, k, gelu, *index)


def _forward(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, d_out: int) -> Tensor:
    inputs = (x, values) if bias is None else (x, values, bias)
    return (library if library.usable(*inputs) else twins).sparse_linear(x, starts, columns, values, bias, d_out)


def _backward(dy: Tensor, x: Tensor, *weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return (library if library.usable(dy, x, weight[2]) else twins).sparse_linear_backward(dy, x, *weight)


_WEIGHT = "Tensor starts, Tensor columns, Tensor values"
_TRANSPOSE = "Tensor t_starts, Tensor t_rows, Tensor order"
operators.define(f"sparse_linear(Tensor x, {_WEIGHT}, Tensor? bias, SymInt d_out) -> Tensor")
operators.define(f"sparse_linear_backward(Tensor dy, Tensor x, {_WEIGHT}, {_TRANSPOSE}) -> (Tensor, Tensor, Tensor)")
operators.impl("sparse_linear", _forward, "CompositeExplicitAutograd")
operators.impl("sparse_linear_backward", _backward, "CompositeExplicitAutograd")


@torch.library.register_fake("openwork::sparse_linear", lib=operators)
def _(x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, d_out: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], d_out)


@torch.library.register_fake("openwork::sparse_linear_backward", lib=operators)
def _(dy: Tensor, x: Tensor, *weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), dy.new_empty(weight[1].shape), dy.new_empty(dy.shape[-1])


def _call(name: str, direct: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel itself, or, while torch.compile traces, its operator, which costs some 10 us more a call."""
    return getattr(torch.ops.openwork, name) if torch.compiler.is_compiling() else direct


def _product(
    x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, k: int, gelu: bool
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The product, after AbsTopK if k > 0; and y and zero_cut, or slopes, by which the kernels know what was kept."""
    weight, d_out = (starts, columns, values, bias), len(starts) - 1
    if k == 0:
        return _call("sparse_linear", _forward)(x, *weight, d_out), ()
    zero_cut = None if gelu else torch.empty(x.shape[:-1], dtype=torch.int32)
    slopes = torch.empty(*x.shape[:-1], d_out) if gelu else None
    y = library.sparse_linear(x, *weight, d_out, k, gelu, zero_cut, slopes)
    return y, (None if gelu else y, zero_cut, slopes)


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, learnt: Tensor, bias: Tensor | None, k: int, gelu: bool, *index: Tensor
    ) -> Tensor:
        starts, columns, t_starts, t_rows, order, *watched = index  # watched: nothing, or values, starts, columns
        values, at_starts, at_columns = watched or (learnt, starts, columns)
        y, kept = _product(x, starts, columns, values, bias, k, gelu)
        ctx.save_for_backward(x, at_starts, at_columns, values, t_starts, t_rows, order, *kept)
        ctx.n_index = len(index)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, starts, columns, values, t_starts, t_rows, order, *kept = ctx.saved_tensors
        if not any(ctx.needs_input_grad[1:3]):
            dx = _call("sparse_linear", _forward)(_passed(dy, *kept), t_starts, t_rows, values[order], None, x.shape[-1])
            return dx, *[None] * (4 + ctx.n_index)
        weight = (starts, columns, values, t_starts, t_rows, order)
        if kept:
            gradients = library.sparse_linear_backward(dy, x, *weight, *kept)
        else:
            gradients = _call("sparse_linear_backward", _backward)(dy, x, *weight)
        wanted = zip(gradients, ctx.needs_input_grad, strict=False)
        return *(gradient if needed else None for gradient, needed in wanted), *[None] * (2 + ctx.n_index)


def _passed(
    dy: Tensor, y: Tensor | None = None, zero_cut: Tensor | None = None, slopes: Tensor | None = None
) -> Tensor:
    """The gradient of a product's rows, of that of what was kept of them."""
    if slopes is not None:
        return library.gelu_abs_topk_backward(dy, slopes)
    return dy if y is None or zero_cut is None else library.abs_topk_backward(dy, y, zero_cut)


class _ExactLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dense: Tensor, bias: Tensor | None, k: int, gelu: bool, *weight: Tensor) -> Tensor:
        starts, columns, values, t_starts, t_rows, order = weight
        y, kept = _product(x, starts, columns, values, bias, k, gelu)
        ctx.save_for_backward(x, values, t_starts, t_rows, order, *kept)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, values, t_starts, t_rows, order, *kept = ctx.saved_tensors
        dy, (for_x, for_weight, for_bias, *_) = _passed(dy, *kept), ctx.needs_input_grad
        dy_NO = dy.reshape(-1, dy.shape[-1])
        transpose = _call("sparse_linear", _forward)
        dx = transpose(dy, t_starts, t_rows, values[order], None, x.shape[-1]) if for_x else None
        dw = dy_NO.T @ x.reshape(-1, x.shape[-1]) if for_weight else None
        return dx, dw, dy_NO.sum(0) if for_bias else None, *[None] * 8
