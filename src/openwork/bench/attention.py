"""Speed of attention: both kernels against PyTorch's, by how many channels AbsTopK left of keys and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from openwork.bench.timing import interleave, times
from openwork.kernels import abs_topk
from openwork.model.attention import attend

D_HEAD, WIDTHS, FRACTIONS = 16, (256, 1024), (1 / 8, 1 / 4, 1 / 3)


def bench_attention(tokens: int = 1024, context: int = 256, rounds: int = 7) -> list[dict[str, Any]]:
    """For each width and fraction of channels kept, times faster than PyTorch's attention, forward and both ways.

    ``any keys`` is the kernel for keys and values of which nothing is known, ``skipping`` the one for what AbsTopK left
    of them.
    """
    rows = []
    for width in WIDTHS:
        for fraction in FRACTIONS:
            seconds = interleave(_ways(width, int(width * fraction), max(1, tokens // context), context), rounds)
            row: dict[str, Any] = {"d_model": width, "kept": fraction}
            for kernel in ("any keys", "skipping"):
                for way in ("forward", "both ways"):
                    row[f"{kernel}, {way}"] = times(seconds[f"PyTorch, {way}"], seconds[f"{kernel}, {way}"])
            rows.append(row)
    return rows


def _ways(width: int, kept: int, batch: int, context: int) -> dict[str, Callable[[], object]]:
    random = torch.Generator().manual_seed(0)
    q, k, v, dy = (torch.randn(batch, context, width, generator=random) for _ in range(4))
    k, v = abs_topk(k, kept), abs_topk(v, kept)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    sink = torch.zeros(width // D_HEAD)

    def forward() -> Tensor:
        return attend(q, k, v, D_HEAD, sink, kept)

    def both_ways() -> object:
        return torch.autograd.grad(forward(), inputs, dy)

    def without(what: str, way: Callable[[], object]) -> Callable[[], object]:
        def call() -> object:
            with mock.patch(what, lambda *tensors: False):
                return way()

        return call

    ways: dict[str, Callable[[], object]] = {}
    for name, way in (("forward", torch.no_grad()(forward)), ("both ways", both_ways)):
        ways[f"PyTorch, {name}"] = without("openwork.kernels.library.here", way)
        ways[f"any keys, {name}"] = without("openwork.kernels.attention._skips", way)
        ways[f"skipping, {name}"] = way
    return ways
