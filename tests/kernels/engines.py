"""The engines that must agree: the compiled kernels at every instruction set that this processor has, the twins, and
for the selections and Adam the GPU's kernels: on a GPU, or (`make triton`) in Triton's interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from openwork.kernels import library, twins

LEVELS = ("generic", "avx2", "avx512")
ENGINES = ("torch", *LEVELS)
SELECTING = (*ENGINES, "gpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@contextmanager
def engine(name: str) -> Iterator[Any]:
    """The module of the engine `name`, compiled ones on two threads; skips the test where this machine has it not."""
    if name == "gpu":
        yield on_gpu()
        return
    if name != "torch" and library.library is None:
        pytest.skip("the kernels were not compiled here")
    level, threads = LEVELS.index(name) if name in LEVELS else 0, torch.get_num_threads()
    if library.library and level > library.library.openwork_best_level():
        pytest.skip(f"this processor has no {name}")
    torch.set_num_threads(1 if name == "torch" else 2)
    try:
        if library.library:
            library.library.openwork_set_level(level)
        yield twins if name == "torch" else library
    finally:
        torch.set_num_threads(threads)
        if library.library:
            library.library.openwork_set_level(library.library.openwork_best_level())


def on_gpu() -> Any:
    """The GPU's kernels, for tensors in main memory."""
    if not INTERPRETED and not torch.cuda.is_available():
        pytest.skip("there is no GPU here; `make triton` interprets its kernels")
    gpu, device = pytest.importorskip("openwork.kernels.gpu"), "cpu" if INTERPRETED else "cuda"

    def keep_topk_each_(wanted: list[tuple[Tensor, int, int, int]]) -> None:
        there = [(weight.to(device), *rest) for weight, *rest in wanted]
        gpu.keep_topk_each_(there)
        for (weight, *_), (theirs, *_) in zip(wanted, there, strict=True):
            weight.copy_(theirs)

    def adam_step_each_(each: list[list[Tensor]], *numbers: float) -> None:
        there = [[x.to(device) for x in tensors] for tensors in each]
        gpu.adam_step_each_(there, *numbers)
        for tensors, theirs in zip(each, there, strict=True):
            for x, y in zip(tensors, theirs, strict=True):
                x.copy_(y)

    def back(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            there = function(*(a.to(device) if isinstance(a, Tensor) else a for a in arguments))
            return tuple(x.cpu() for x in there) if isinstance(there, tuple) else there.cpu()

        return call

    return SimpleNamespace(
        abs_topk=back(gpu.abs_topk),
        abs_topk_backward=back(gpu.abs_topk_backward),
        keep_topk_each_=keep_topk_each_,
        adam_step_each_=adam_step_each_,
    )


def bits(x: Tensor) -> Tensor:
    """The bit patterns of x, so that NaN equals itself and -0 differs from 0."""
    return x.detach().contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def kept_by_sorting(x: Tensor, k: int) -> Tensor:
    """Mask of the k largest |x| of each row, NaN first, ties to the lower index: by a stable sort in float64."""
    keys = x.detach().double().abs()
    keys = torch.where(keys.isnan(), float("inf"), torch.where(keys.isinf(), 1e300, keys))
    order = keys.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros(x.shape, dtype=torch.bool).scatter(-1, order, True)
