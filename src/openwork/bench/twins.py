"""Speed of the kernels beside their twins in plain PyTorch, which serve where no kernels were compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork import kernels
from openwork.bench.timing import interleave, repeat, times
from openwork.kernels import Product, compress, library, twins
from openwork.kernels.passes import EPS

Ways = tuple[Callable[..., object], Callable[..., object]]
"""The kernel, and its twin."""


def bench_twins(
    tokens: int = 1024, d_in: int = 256, d_out: int = 1024, density: float = 1 / 64, rounds: int = 7
) -> list[dict[str, Any]]:
    """Milliseconds of each kernel and of its twin, and how many times faster the kernel is.

    They are of x (tokens, d_in), a weight (d_out, d_in) and y (tokens, d_out). Attention and the product that skips
    zeros of x are timed beside their twins by `bench_attention` and `bench_kernels`.
    """
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(tokens, d, generator=random) for d in (d_in, d_out))
    weight = torch.randn(d_out, d_in, generator=random)
    sparse = weight * (torch.rand(weight.shape, generator=random) < density)
    ways = _products(x, y, sparse) | _passes(y) | _updates(y, weight, density)
    seconds = interleave({f"{name}, {i}": way for name, both in ways.items() for i, way in enumerate(both)}, rounds)
    rows = []
    for name in ways:
        kernel, twin = (seconds[f"{name}, {i}"] for i in range(2))
        row = {"kernel": name, "ms": 1e3 * median(kernel), "ms of the twin": 1e3 * median(twin)}
        rows.append(row | {"times": times(twin, kernel)})
    return rows


def _both(name: str, *arguments: Any) -> Ways:
    """The function `name` of the compiled kernels, where they are there, and that of the twins."""
    engine = library if kernels.native else twins
    return partial(getattr(engine, name), *arguments), partial(getattr(twins, name), *arguments)


def _products(x: Tensor, dy: Tensor, weight: Tensor) -> dict[str, Ways]:
    """Those with a sparse weight, of many tokens and, twenty times, of one; the way back: dX, and what learns."""
    bias, token, w = dy[0].clone(), x[:1].clone(), compress(weight)
    parts = w.starts, w.columns, w.values, w.t_starts, w.t_rows, w.order
    kernel, twin = _both("sparse_vector", token, w.t_starts, w.t_rows, w.values[w.order], bias, len(weight))
    if kernels.native:  # which is called with the weight packed before
        vector = Product(w, bias, by_input=w.by_input()).vector
        kernel = partial(library.sparse_vectors, token, [vector])
    return {
        "compress": _both("compress", weight),
        "sparse product": _both("sparse_linear", x, *parts[:3], bias, len(weight)),
        "sparse product, way back": _both("sparse_linear_backward", dy, x, *parts),
        "sparse product, 20 x one token": (repeat(20, kernel), repeat(20, twin)),
    }


def _passes(y: Tensor) -> dict[str, Ways]:
    """What has one pass over memory each way, there and back."""
    y, scale, dy = y.clone().requires_grad_(), torch.ones(y.shape[1]).requires_grad_(), y.flip(0)
    targets = torch.arange(len(y)) % y.shape[1]

    def back(f: Callable[[], Tensor], *learnt: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad((z := f()), learnt, dy if z.dim() else None)

    return {
        "RMSNorm, both ways": (
            back(lambda: kernels.rms_norm(y, scale), y, scale),
            back(lambda: F.rms_norm(y, scale.shape, scale, EPS), y, scale),
        ),
        "GELU, both ways": (back(lambda: kernels.gelu(y), y), back(lambda: F.gelu(y), y)),
        "cross-entropy, both ways": (
            back(lambda: kernels.cross_entropy(y, targets), y),
            back(lambda: F.cross_entropy(y, targets), y),
        ),
    }


def _updates(y: Tensor, weight: Tensor, density: float) -> dict[str, Ways]:
    """Both selections, which `bench_topk` has beside torch.topk, and Adam."""
    k, moments = round(density * weight.numel()), (torch.zeros_like(weight), torch.zeros_like(weight))
    keep, keep_twin = _both("keep_topk_each_")
    numbers = 1.0, 0.9, 0.95, 0.1, 1e-3, 0.2, 1.0
    return {
        "AbsTopK": _both("abs_topk", y, y.shape[1] // 4),
        "selection of weights": (
            lambda: keep([(weight.clone(), k, 4, 1)]),
            lambda: keep_twin([(weight.clone(), k, 4, 1)]),
        ),
        "Adam": _both("adam_step_", weight.clone(), weight, *moments, *numbers),
    }
