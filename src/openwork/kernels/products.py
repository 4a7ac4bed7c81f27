"""Linear maps whose weight is mostly zero, at the cost of the weights that are not.

    w = compress(weight)                  # by rows, and by columns for the way back
    y = sparse_linear(x, w, bias)         # gradients for x, for w.values, and for the bias
    y = sparse_linear(x, w, bias, watched)  # the same y; gradients for watched.values instead, zeros of w among them
    y = exact_linear(x, weight, w, bias)  # the same y; gradients for x and, dense, for the whole of weight
    q, k, v = sparse_linears(x, [Product(...), Product(...), Product(...)])  # several of them in one pass over x
    y = sparse_vector(x, w, t_values, bias)  # the same y for a few tokens; no gradients

A `Product` may also ask for AbsTopK of y (k=...), or of its GELU (gelu=True), in one pass over memory.

A weight that is zero multiplies nothing: a NaN or an infinity in x reaches the outputs that have a weight for it, in a
dense product all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.kernels import library, twins
from openwork.kernels.operators import operators
from openwork.kernels.passes import gelu_abs_topk
from openwork.kernels.selection import abs_topk
from openwork.kernels.skipping import dense_gradients

MOST_ENTRIES = 2**31 - 1
MOST_OUTPUTS = 2**16
"""Of a weight that `Product.by_input` can be made of."""


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

    def by_input(self) -> Tensor | None:
        """The weights as they are now for a `Product` of a few tokens; None if there are too many outputs."""
        if self.shape[0] > MOST_OUTPUTS:
            return None
        return library.packed(self.t_starts, self.t_rows, self.values[self.order])


def compress(weight: Tensor) -> SparseWeight:
    """The non-zeros of weight (d_out, d_in); NaN is one, -0 is none."""
    compressed = compress_below(weight, math.inf)
    assert compressed is not None
    return compressed


def compress_below(weight: Tensor, density: float) -> SparseWeight | None:
    """`compress`, where the weight's density is below that; else None, and no more was done than to count."""
    assert weight.dim() == 2 and weight.numel() <= MOST_ENTRIES, tuple(weight.shape)
    parts = (library if library.usable(weight) else twins).compress(weight, density)
    return SparseWeight((weight.shape[0], weight.shape[1]), *parts) if parts is not None else None


@dataclass(frozen=True)
class Product:
    """x (..., d_in) times a weight (d_out, d_in), plus a bias (d_out,), and AbsTopK of that; what of it learns."""

    weight: SparseWeight
    bias: Tensor | None = None
    watched: SparseWeight | None = None
    """If given, ``watched.values`` get the gradient that ``weight.values`` would get: that of the weight at every place
    in it, be the weight there zero or not. Nothing is multiplied by these values."""
    dense: Tensor | None = None
    """If given, the dense form of `weight`, which may lag behind; this gets the gradient, zeros and all."""
    k: int = 0
    """If positive, the result is AbsTopK of the product, see `openwork.kernels.abs_topk`."""
    gelu: bool = False
    """Whether AbsTopK is of the product's GELU."""
    by_input: Tensor | None = None
    """If given, ``weight.by_input()``: where no gradients are wanted, zeros of x are skipped as well, which is faster
    for a few tokens."""

    @property
    def learnt(self) -> Tensor:
        """What gets the weight's gradient."""
        return self.dense if self.dense is not None else (self.watched or self.weight).values

    @property
    def forward(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None, int, bool]:
        """What `openwork.kernels.library.sparse_linears` asks for."""
        return self.weight.starts, self.weight.columns, self.weight.values, self.bias, self.k, self.gelu

    @property
    def vector(self) -> tuple[Tensor, Tensor, Tensor | None, int, int, bool]:
        """What `openwork.kernels.library.sparse_vectors` asks for."""
        assert self.by_input is not None
        return self.weight.t_starts, self.by_input, self.bias, self.weight.shape[0], self.k, self.gelu


def sparse_linear(
    x: Tensor, weight: SparseWeight, bias: Tensor | None = None, watched: SparseWeight | None = None
) -> Tensor:
    """The `Product` of x (..., d_in) alone. Differentiable once."""
    return sparse_linears(x, [Product(weight, bias, watched)])[0]


def exact_linear(x: Tensor, dense: Tensor, weight: SparseWeight, bias: Tensor | None = None) -> Tensor:
    """As `sparse_linear`, `weight` being `dense` compressed; but ``dense`` gets its gradient, zeros and all."""
    return sparse_linears(x, [Product(weight, bias, dense=dense)])[0]


def sparse_linears(x: Tensor, products: Sequence[Product]) -> Sequence[Tensor]:
    """Each of the products of x (..., d_in), with the bits that it has alone; the kernels read x once. Differentiable
    once.

    Raises:
        UserError: x or a bias does not fit a weight.
    """
    inputs = [x]
    for p in products:
        _check(x, p.weight, p.bias)
        inputs += (p.weight.values,) if p.bias is None else (p.weight.values, p.bias)
    if not library.here(*inputs) or not all(0 <= p.k < p.weight.shape[0] for p in products):
        return [_alone(x, product) for product in products]
    if torch.is_grad_enabled():
        return _Together.apply(x, products, *(part for p in products for part in (p.learnt, p.bias)))
    if all(p.by_input is not None for p in products):
        return library.sparse_vectors(x, [p.vector for p in products])
    return library.sparse_linears(x, [p.forward for p in products])[0]


def sparse_vector(x: Tensor, weight: SparseWeight, t_values: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `sparse_linear` without gradients, for a few tokens at a time: skips zeros of x as well.

    t_values are ``weight.values[weight.order]``, which the caller keeps as long as the values stay the same.

    Raises:
        UserError: x, the values or the bias do not fit the weight.
    """
    _check(x, weight, bias)
    if t_values.shape != weight.order.shape:
        raise UserError(f"{tuple(t_values.shape)} values do not fit a weight of {len(weight.order)} non-zeros")
    inputs = (x, t_values) if bias is None else (x, t_values, bias)
    kernels = library if library.usable(*inputs) and weight.shape[0] <= MOST_OUTPUTS else twins
    return kernels.sparse_vector(x, weight.t_starts, weight.t_rows, t_values, bias, weight.shape[0])


def _check(x: Tensor, weight: SparseWeight, bias: Tensor | None) -> None:
    d_out, d_in = weight.shape
    if x.shape[-1] != d_in or (bias is not None and bias.shape != (d_out,)):
        shape = "none" if bias is None else tuple(bias.shape)
        raise UserError(f"x {tuple(x.shape)}, a weight ({d_out}, {d_in}) and a bias {shape} do not fit together")


class _Together(torch.autograd.Function):
    """Products by the compiled kernels; `learnt` are for each what gets the weight's gradient, and the bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, products: Sequence[Product], *learnt: Tensor | None) -> tuple[Tensor, ...]:
        outputs, all_kept = library.sparse_linears(x, [product.forward for product in products], differentiable=True)
        saved = [(product.weight.values, *kept) for product, kept in zip(products, all_kept, strict=True)]
        ctx.products = products
        ctx.save_for_backward(x, *itertools.chain(*saved))
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *dys: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *saved = ctx.saved_tensors
        for_x, _, *needed = ctx.needs_input_grad
        parts, needs = [], [(needed[i], needed[i + 1]) for i in range(0, len(needed), 2)]
        for i, (product, dy) in enumerate(zip(ctx.products, dys, strict=True)):
            w, at, learns = product.weight, product.watched or product.weight, any(needs[i])
            values, kept = saved[4 * i], library.Kept(*saved[4 * i + 1 : 4 * i + 4])
            if product.dense is not None and learns:
                dy, kept, learns = _passed(dy, kept), library.ALL, False
            parts.append((dy, kept, (at.starts, at.columns, values, w.t_starts, w.t_rows, w.order), learns))
        dx, gradients = library.sparse_linears_backward(x, parts, for_x)
        learnt = []
        for (dy, *_), gradient, (for_weight, for_bias) in zip(parts, gradients, needs, strict=True):
            dw, db = gradient or dense_gradients(dy, x, for_weight, for_bias)
            learnt += [dw if for_weight else None, db if for_bias else None]
        return dx, None, *learnt


def _passed(dy: Tensor, kept: library.Kept) -> Tensor:
    """The gradient of a product's rows, of that of what was kept of them."""
    if kept.slopes is not None:
        return library.gelu_abs_topk_backward(dy, kept.slopes)
    return dy if kept.y is None or kept.zero_cut is None else library.abs_topk_backward(dy, kept.y, kept.zero_cut)


def _alone(x: Tensor, product: Product) -> Tensor:
    """A product by whatever can make it, and AbsTopK after it."""
    w, at = product.weight, product.watched
    index = (w.starts, w.columns, w.t_starts, w.t_rows, w.order)
    if product.dense is not None:
        y = _ExactLinear.apply(x, product.dense, product.bias, w.values, *index)
    else:
        others = () if at is None else (w.values, at.starts, at.columns)
        y = _SparseLinear.apply(x, product.learnt, product.bias, *index, *others)
    return y if product.k == 0 else gelu_abs_topk(y, product.k) if product.gelu else abs_topk(y, product.k)


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


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, bias, _ = inputs
    ctx.save_for_backward(*tensors)
    ctx.biased = bias is not None


@torch.autograd.function.once_differentiable
def _gradient(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, starts, columns, values = ctx.saved_tensors
    places = torch.arange(len(columns), dtype=torch.int32, device=columns.device)
    inputs = torch.arange(x.shape[-1] + 1, dtype=torch.int32, device=columns.device)
    order = columns.argsort(stable=True).int()
    t_starts = torch.searchsorted(columns[order], inputs, out_int32=True)
    t_rows = torch.searchsorted(starts, places, right=True, out_int32=True)[order] - 1
    weight = (starts, columns, values, t_starts, t_rows, order)
    dx, dvalues, dbias = torch.ops.openwork.sparse_linear_backward(dy, x, *weight)
    return dx, None, None, dvalues, dbias if ctx.biased else None, None


torch.library.register_autograd("openwork::sparse_linear", _gradient, setup_context=_save, lib=operators)


def _call(name: str, direct: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel itself, or, while someone traces, its operator, which costs some 10 us more a call."""
    return getattr(torch.ops.openwork, name) if library.tracing() else direct


class _SparseLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, learnt: Tensor, bias: Tensor | None, *index: Tensor) -> Tensor:
        starts, columns, t_starts, t_rows, order, *watched = index  # watched: nothing, or values, starts, columns
        values, at_starts, at_columns = watched or (learnt, starts, columns)
        ctx.save_for_backward(x, at_starts, at_columns, values, t_starts, t_rows, order)
        ctx.n_index = len(index)
        return _call("sparse_linear", _forward)(x, starts, columns, values, bias, len(starts) - 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, _, _, values, t_starts, t_rows, order = ctx.saved_tensors
        if not any(ctx.needs_input_grad[1:3]):
            dx = _call("sparse_linear", _forward)(dy, t_starts, t_rows, values[order], None, x.shape[-1])
            return dx, *[None] * (2 + ctx.n_index)
        gradients = _call("sparse_linear_backward", _backward)(dy, *ctx.saved_tensors)
        wanted = zip(gradients, ctx.needs_input_grad, strict=False)
        return *(gradient if needed else None for gradient, needed in wanted), *[None] * ctx.n_index


class _ExactLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dense: Tensor, bias: Tensor | None, *weight: Tensor) -> Tensor:
        values, starts, columns, t_starts, t_rows, order = weight
        ctx.save_for_backward(x, values, t_starts, t_rows, order)
        return _call("sparse_linear", _forward)(x, starts, columns, values, bias, len(starts) - 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, values, t_starts, t_rows, order = ctx.saved_tensors
        for_x, for_weight, for_bias, *_ = ctx.needs_input_grad
        transpose = _call("sparse_linear", _forward)
        dx = transpose(dy, t_starts, t_rows, values[order], None, x.shape[-1]) if for_x else None
        return dx, *dense_gradients(dy, x, for_weight, for_bias), *[None] * 6
