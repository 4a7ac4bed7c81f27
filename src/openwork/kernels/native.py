"""The compiled kernels, called through ctypes on the memory of tensors."""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path

import torch  # loads the OpenMP runtime that the kernels then share with PyTorch
from torch import Tensor

LIBRARY = Path(__file__).parent / "_native.so"
log = logging.getLogger(__name__)
_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
_SIGNATURES = {
    "abs_topk": [_POINTER, _POINTER, _POINTER, _LONG, _LONG, _LONG, _INT],
    "abs_topk_backward": [_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _INT],
    "keep_topk": [_POINTER, _LONG, _LONG, _LONG, _LONG, _INT],
}


def load() -> ctypes.CDLL | None:
    """The library, or None (with one line that says why and how to mend it) where it was not built."""
    if os.environ.get("OPENWORK_KERNELS") == "torch":
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, f"openwork_{name}")
            function.argtypes, function.restype = arguments, None
    except (OSError, AttributeError) as error:
        log.warning(
            "compiled kernels are not used (%s): training is slower; install g++ and run python -m openwork.kernels.build",
            error,
        )
        return None
    return library


library = load()


def usable(x: Tensor) -> bool:
    """Whether the compiled kernels can work on x: they are there, and x is float32 in main memory."""
    return library is not None and x.device.type == "cpu" and x.dtype == torch.float32


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `openwork.kernels.twins.abs_topk`."""
    assert library is not None
    x = x.detach().contiguous()
    y, d = torch.empty_like(x), x.shape[-1]
    zero_cut = torch.empty(x.shape[:-1], dtype=torch.int32)
    library.openwork_abs_topk(
        x.data_ptr(), y.data_ptr(), zero_cut.data_ptr(), x.numel() // d, d, k, torch.get_num_threads()
    )
    return y, zero_cut


def abs_topk_backward(dy: Tensor, y: Tensor, zero_cut: Tensor) -> Tensor:
    """As `openwork.kernels.twins.abs_topk_backward`."""
    assert library is not None
    dy = dy.contiguous()
    dx, d = torch.empty_like(y), y.shape[-1]
    library.openwork_abs_topk_backward(
        dy.data_ptr(), y.data_ptr(), zero_cut.data_ptr(), dx.data_ptr(), y.numel() // d, d, torch.get_num_threads()
    )
    return dx


def keep_topk_(weight: Tensor, k: int, floor: int, axis: int) -> None:
    """As `openwork.kernels.twins.keep_topk_`; `weight` must be contiguous."""
    assert library is not None and weight.is_contiguous()
    library.openwork_keep_topk(weight.data_ptr(), weight.shape[0], weight.shape[1], k, floor, axis)
