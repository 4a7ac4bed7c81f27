"""The compiled kernels, called through ctypes on the memory of tensors.

They use the threads of the OpenMP runtime that PyTorch loaded, as many as ``torch.get_num_threads()`` says.
``OPENWORK_KERNELS`` in the environment may be ``torch`` (use the twins) or the path of another build of the library.
"""

from __future__ import annotations

import ctypes
import logging
import os

import torch
from torch import Tensor

from openwork.kernels import build

_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "abs_topk": (None, [_POINTER, _POINTER, _POINTER, _LONG, _LONG, _LONG, _INT]),
    "abs_topk_backward": (None, [_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _INT]),
    "keep_topk": (_INT, [_POINTER, _LONG, _LONG, _LONG, _LONG, _INT, _INT]),
    "compress_starts": (_LONG, [_POINTER, _POINTER, _LONG, _LONG, _INT]),
    "compress": (None, [*[_POINTER] * 7, _LONG, _LONG, _INT]),
    "sparse_linear": (_INT, [*[_POINTER] * 6, _LONG, _LONG, _LONG, _INT]),
    "sparse_linear_backward": (_INT, [*[_POINTER] * 10, _LONG, _LONG, _LONG, _LONG, _INT]),
    "adam_step": (None, [*[_POINTER] * 4, _LONG, *[_FLOAT] * 7, _INT]),
    "set_fork": (None, [_POINTER]),
    "set_level": (None, [_INT]),
    "best_level": (_INT, []),
    "sources": (ctypes.c_char_p, []),
}


def load() -> ctypes.CDLL | None:
    """The library; None where it was not built (one logged line says why and how to mend it) or is not wanted."""
    choice = os.environ.get("OPENWORK_KERNELS", "")
    if choice == "torch":
        return None
    try:
        library = ctypes.CDLL(choice or str(build.HERE / build.LIBRARY))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"openwork_{name}")
            function.restype, function.argtypes = result, arguments
        if library.openwork_sources().decode() != build.fingerprint():
            raise OSError("they were compiled from other sources than these")
    except (OSError, AttributeError) as error:
        logging.getLogger(__name__).warning(
            "slower PyTorch kernels are used, the compiled ones cannot be (%s); install g++ or clang++, run: python %s",
            error,
            build.__file__,
        )
        return None
    library.openwork_set_fork(_fork())
    return library


def _fork() -> ctypes.c_void_p | None:
    """GOMP_parallel of PyTorch's own OpenMP runtime; None (one thread) where PyTorch uses another kind."""
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, _POINTER)
    except (OSError, AttributeError):
        return None


library = load()


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled kernels can work on these: they are there, and all tensors are float32 in main memory."""
    return library is not None and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `openwork.kernels.twins.abs_topk`."""
    assert library is not None
    x, d = x.detach().contiguous(), x.shape[-1]
    y, zero_cut = torch.empty_like(x), torch.empty(x.shape[:-1], dtype=torch.int32)
    rows = x.numel() // d
    library.openwork_abs_topk(x.data_ptr(), y.data_ptr(), zero_cut.data_ptr(), rows, d, k, torch.get_num_threads())
    return y, zero_cut


def abs_topk_backward(dy: Tensor, y: Tensor, zero_cut: Tensor) -> Tensor:
    """As `openwork.kernels.twins.abs_topk_backward`; y and zero_cut as `abs_topk` returned them."""
    assert library is not None and y.is_contiguous() and zero_cut.is_contiguous()
    dy, dx, d = dy.contiguous(), torch.empty_like(y), y.shape[-1]
    pointers = (dy.data_ptr(), y.data_ptr(), zero_cut.data_ptr(), dx.data_ptr())
    library.openwork_abs_topk_backward(*pointers, y.numel() // d, d, torch.get_num_threads())
    return dx


def keep_topk_(weight: Tensor, k: int, floor: int, axis: int) -> None:
    """As `openwork.kernels.twins.keep_topk_`."""
    assert library is not None and 0 < k < weight.numel()
    dense = weight.detach().contiguous()
    rows, cols = dense.shape
    if library.openwork_keep_topk(dense.data_ptr(), rows, cols, k, floor, axis, torch.get_num_threads()):
        raise MemoryError(f"no memory left to select among {rows} x {cols} weights")
    if dense.data_ptr() != weight.data_ptr():
        weight.copy_(dense)
    else:
        torch.autograd.graph.increment_version(weight)


def compress(weight: Tensor) -> list[Tensor]:
    """As `openwork.kernels.twins.compress`."""
    assert library is not None
    weight, threads = weight.detach().contiguous(), torch.get_num_threads()
    rows, cols = weight.shape
    starts, t_starts = torch.empty(rows + 1, dtype=torch.int32), torch.empty(cols + 1, dtype=torch.int32)
    n = library.openwork_compress_starts(weight.data_ptr(), starts.data_ptr(), rows, cols, threads)
    columns, t_rows, order = torch.empty(3, n, dtype=torch.int32)
    values = torch.empty(n)
    out = (starts, columns, values, t_starts, t_rows, order)
    library.openwork_compress(weight.data_ptr(), *(x.data_ptr() for x in out), rows, cols, threads)
    return list(out)


def sparse_linear(
    x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, d_out: int
) -> Tensor:
    """As `openwork.kernels.twins.sparse_linear`."""
    assert library is not None and starts.shape == (d_out + 1,) and values.is_contiguous()
    x = x.detach().contiguous()
    y = torch.empty(*x.shape[:-1], d_out)
    inputs = (x.data_ptr(), starts.data_ptr(), columns.data_ptr(), values.data_ptr())
    bias_pointer = None if bias is None else bias.data_ptr()
    sizes = (x.numel() // x.shape[-1], x.shape[-1], d_out, torch.get_num_threads())
    if library.openwork_sparse_linear(*inputs, bias_pointer, y.data_ptr(), *sizes):
        raise MemoryError(f"no memory left to multiply with {d_out} x {x.shape[-1]} weights")
    return y


def sparse_linear_backward(
    dy: Tensor,
    x: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    t_starts: Tensor,
    t_rows: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `openwork.kernels.twins.sparse_linear_backward`."""
    assert library is not None
    dy, x, threads = dy.contiguous(), x.detach().contiguous(), torch.get_num_threads()
    dx, d_in, d_out, n = torch.empty_like(x), x.shape[-1], dy.shape[-1], len(values)
    t_values = values[order]
    gradients = torch.empty(threads, n + d_out)
    tensors = (dy, x, starts, columns, values, t_starts, t_rows, t_values, dx, gradients)
    sizes = (x.numel() // d_in, d_in, d_out, threads, threads)
    if library.openwork_sparse_linear_backward(*(tensor.data_ptr() for tensor in tensors), *sizes):
        raise MemoryError(f"no memory left for the gradients of {d_out} x {d_in} weights")
    gradient = gradients.sum(0)
    return dx, gradient[:n], gradient[n:]


def adam_step_(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    scale: float,
    betas: tuple[float, float],
    eps: float,
    size: float,
    root: float,
    shrink: float,
) -> None:
    """As `openwork.kernels.twins.adam_step_`; all but the gradient are contiguous."""
    assert library is not None and parameter.is_contiguous() and exp_avg.is_contiguous() and exp_avg_sq.is_contiguous()
    pointers = (x.data_ptr() for x in (parameter, gradient.contiguous(), exp_avg, exp_avg_sq))
    numbers = (scale, *betas, eps, size, root, shrink)
    library.openwork_adam_step(*pointers, parameter.numel(), *numbers, torch.get_num_threads())
    torch.autograd.graph.increment_version(parameter)
