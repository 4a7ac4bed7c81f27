"""Finds the kernels for a GPU, which need Triton: it comes with PyTorch for GPUs, and takes its time to import."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from torch import Tensor


def gpu_kernels(x: Tensor) -> Any:
    """The module `openwork.kernels.gpu` if `x` lies on a GPU and Triton is there, else None."""
    return _module() if x.is_cuda else None


@cache
def _module() -> Any:
    try:
        from openwork.kernels import gpu
    except ImportError as error:
        logging.getLogger(__name__).warning("slower PyTorch kernels are used on the GPU (%s); install triton", error)
        return None
    return gpu
