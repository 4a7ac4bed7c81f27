"""Speed of the kernels against dense PyTorch and against their twins, and the density from which on they win."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from openwork import kernels
from openwork.bench.plain import plain_abs_topk, plain_keep_topk_
from openwork.bench.timing import interleave, times
from openwork.kernels import Product, abs_topk, compress, library, sparse_linears, twins

SHAPES = ((256, 256), (256, 1024), (1024, 256), (1024, 1024), (1024, 4096), (4096, 1024))
DENSITIES = (1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8, 1 / 12, 1 / 16, 1 / 64, 1 / 256)


def bench_kernels(tokens: int = 1024, rounds: int = 7, with_twins: bool = True) -> list[dict[str, Any]]:
    """For each shape and density, times faster than the dense product, of an x that AbsTopK left a quarter of.

    ``skipping`` is the product with the weight kept dense that skips zeros of x; forward, dX and backward (all
    gradients) skip zeros of the weight. ``exact`` and ``fast`` compare a layer's whole step, AbsTopK after it, with the
    one of a dense weight that skips zeros of activations, and so decide: exact compresses the weight and gives all of
    it a gradient, fast the non-zeros. ``twin``, from 1/64 down, is the forward product of the pure-PyTorch twin.
    """
    rows = []
    for d_in, d_out in SHAPES:
        for density in DENSITIES:
            ways = _ways(d_in, d_out, density, tokens, with_twins and density <= 1 / 64)
            seconds = interleave(ways, rounds)
            dense = seconds["dense"]
            row = {"d_in": d_in, "d_out": d_out, "density": density}
            row |= {name: times(dense, seconds[name]) for name in ("skipping", "forward", "dX")}
            row["backward"] = times([2 * s for s in dense], seconds["gradients"])
            row |= {mode: times(seconds["dense layer"], seconds[f"{mode} layer"]) for mode in ("exact", "fast")}
            if "twin" in seconds:
                row["twin"] = times(dense, seconds["twin"])
            rows.append(row)
    return rows


def crossovers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each shape, the largest density from which on, going down, a layer's exact and fast steps always win."""
    found = []
    for d_in, d_out in SHAPES:
        of_shape = [row for row in rows if (row["d_in"], row["d_out"]) == (d_in, d_out)]
        entry: dict[str, Any] = {"d_in": d_in, "d_out": d_out}
        for mode in ("exact", "fast"):
            winning = 0.0
            for row in sorted(of_shape, key=lambda row: row["density"]):
                if row[mode] <= 1:
                    break
                winning = row["density"]
            entry[mode] = winning
        found.append(entry)
    return found


def _ways(d_in: int, d_out: int, density: float, tokens: int, with_twin: bool) -> dict[str, Callable[[], object]]:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(d_out, d_in, generator=random) * (torch.rand(d_out, d_in, generator=random) < density)
    x, dy = (torch.randn(tokens, d, generator=random) for d in (d_in, d_out))
    x = abs_topk(x, d_in // 4)
    bias, engine = torch.randn(d_out, generator=random), library if kernels.native else twins
    kept = compress(weight)
    parts = starts, columns, values, t_starts, t_rows, order = (
        kept.starts,
        kept.columns,
        kept.values,
        kept.t_starts,
        kept.t_rows,
        kept.order,
    )
    ways: dict[str, Callable[[], object]] = {
        "dense": lambda: torch.addmm(bias, x, weight.T),
        "skipping": lambda: kernels.linear(x, weight, bias),
        "forward": lambda: engine.sparse_linear(x, starts, columns, values, bias, d_out),
        "dX": lambda: engine.sparse_linear(dy, t_starts, t_rows, values[order], None, d_in),
        "gradients": lambda: engine.sparse_linear_backward(dy, x, *parts),
    }
    if with_twin:
        ways["twin"] = lambda: twins.sparse_linear(x, starts, columns, values, bias, d_out)

    k, learnt = d_out // 4, [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
    kept.values.requires_grad_()

    def step(layer: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(layer(), [*learnt, kept.values], dy, allow_unused=True)

    ways["dense layer"] = step(lambda: abs_topk(kernels.linear(x, weight, bias, selected=True), k))
    ways["exact layer"] = step(lambda: sparse_linears(x, [Product(compress(weight), bias, dense=weight, k=k)])[0])
    ways["fast layer"] = step(lambda: sparse_linears(x, [Product(kept, bias, k=k)])[0])
    return ways


def bench_topk(
    d_model: int = 1024, tokens: int = 1024, density: float = 1 / 64, rounds: int = 7
) -> list[dict[str, Any]]:
    """Milliseconds of both selections: of activations (a quarter of each row, forward and backward) and of weights."""
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(tokens, 4 * d_model, generator=random), torch.randn(4 * d_model, d_model, generator=random)
    k, kept = d_model, round(density * weight.numel())
    activations: dict[str, Callable[[Tensor], Tensor]] = {
        "kernel": lambda x: abs_topk(x, k),
        "torch.topk": lambda x: plain_abs_topk(x, k),
        "relu": torch.relu,
    }
    weights: dict[str, Callable[[Tensor], None]] = {
        "kernel": lambda w: kernels.keep_topk_(w, kept, 4),
        "torch.topk": lambda w: plain_keep_topk_(w, kept, 4),
    }
    if kernels.native:
        activations["twin"] = lambda x: twins.abs_topk(x, k)[0]
        weights["twin"] = lambda w: twins.keep_topk_each_([(w, kept, 4, 1)])

    def there_and_back(select: Callable[[Tensor], Tensor]) -> Callable[[], None]:
        source, dy = x.clone().requires_grad_(), torch.randn(x.shape, generator=random)
        return lambda: select(source).backward(dy)

    ways: dict[tuple[str, str], Callable[[], object]]
    ways = {("activations, forward", name): (lambda f=f: f(x)) for name, f in activations.items()}
    ways |= {("activations, both ways", n): there_and_back(f) for n, f in activations.items() if n != "twin"}
    ways |= {("weights", name): (lambda f=f: f(weight.clone())) for name, f in weights.items()}
    seconds = interleave({f"{what}: {name}": way for (what, name), way in ways.items()}, rounds)
    return [
        {
            "what": what,
            "way": name,
            "milliseconds": 1e3 * median(seconds[f"{what}: {name}"]),
            "times torch.topk": times(seconds[f"{what}: torch.topk"], seconds[f"{what}: {name}"]),
        }
        for what, name in ways
    ]
