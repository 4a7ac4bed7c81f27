"""The engines that must agree: the compiled kernels at every instruction set that this processor has, and the twins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from openwork.kernels import library, twins

LEVELS = ("generic", "avx2", "avx512")
ENGINES = ("torch", *LEVELS)


@contextmanager
def engine(name: str) -> Iterator[Any]:
    """The module of the engine `name`, compiled ones on two threads; skips the test where this machine has it not."""
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


def bits(x: Tensor) -> Tensor:
    """The bit patterns of x, so that NaN equals itself and -0 differs from 0."""
    return x.detach().contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def kept_by_sorting(x: Tensor, k: int) -> Tensor:
    """Mask of the k largest |x| of each row, NaN first, ties to the lower index: by a stable sort in float64."""
    keys = x.detach().double().abs()
    keys = torch.where(keys.isnan(), float("inf"), torch.where(keys.isinf(), 1e300, keys))
    order = keys.argsort(dim=-1, descending=True, stable=True)[..., :k]
    return torch.zeros(x.shape, dtype=torch.bool).scatter(-1, order, True)
