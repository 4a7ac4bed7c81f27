"""The compiled kernels, called through ctypes on the memory of tensors.

They use the threads of the OpenMP runtime that PyTorch loaded, as many as ``torch.get_num_threads()`` says.
``OPENWORK_KERNELS`` in the environment may be ``torch`` (use the twins) or the path of another build of the library.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform

import torch
from torch import Tensor

from openwork.kernels import build

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them
_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "abs_topk": (None, [_POINTER, _POINTER, _POINTER, _LONG, _LONG, _LONG, _INT]),
    "abs_topk_backward": (None, [_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _INT]),
    "keep_topk": (_INT, [_POINTER, _LONG, _LONG, _LONG, _LONG, _INT, _INT]),
    "compress_starts": (_LONG, [_POINTER, _POINTER, _LONG, _LONG, _INT]),
    "compress": (None, [*[_POINTER] * 7, _LONG, _LONG, _INT]),
    "sparse_linear": (_INT, [*[_POINTER] * 8, *[_LONG] * 4, _INT, _INT]),
    "sparse_vector": (_INT, [*[_POINTER] * 6, _LONG, _LONG, _LONG, _INT]),
    "sparse_linear_backward": (_INT, [*[_POINTER] * 13, _LONG, _LONG, _LONG, _LONG, _INT]),
    "adam_step": (None, [*[_POINTER] * 4, _LONG, *[_FLOAT] * 7, _INT]),
    "attention": (_INT, [*[_POINTER] * 6, *[_LONG] * 5, _INT]),
    "attention_backward": (_INT, [*[_POINTER] * 11, *[_LONG] * 4, _INT]),
    "rms_norm": (_INT, [*[_POINTER] * 5, _LONG, _LONG, _LONG, _FLOAT, _INT]),
    "rms_norm_backward": (_INT, [*[_POINTER] * 8, _LONG, _LONG, _LONG, _INT]),
    "gelu": (None, [_POINTER, _POINTER, _LONG, _INT]),
    "gelu_backward": (None, [_POINTER, _POINTER, _POINTER, _LONG, _INT]),
    "gelu_abs_topk": (_INT, [*[_POINTER] * 3, _LONG, _LONG, _LONG, _INT]),
    "gelu_abs_topk_backward": (None, [_POINTER, _POINTER, _POINTER, _LONG, _INT]),
    "cross_entropy": (None, [*[_POINTER] * 4, _LONG, _LONG, _INT]),
    "cross_entropy_backward": (None, [*[_POINTER] * 4, _FLOAT, _LONG, _LONG, _INT]),
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
_functions = {name: getattr(library, f"openwork_{name}") for name in _SIGNATURES} if library else {}


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for its next tensors.

    By default glibc gives large blocks back to the system, which then hands every page out anew, cleared: up to a tenth
    of a training step. Where the C library has no such setting, nothing changes.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, 2**25)  # the largest that every version takes
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled kernels can work on these: they are there, and all tensors are float32 in main memory."""
    for x in tensors:  # a loop, because this is asked for every kernel of every token
        if not x.is_cpu or x.dtype is not torch.float32:
            return False
    return library is not None


def here(*tensors: Tensor) -> bool:
    """Whether to use the compiled kernels on these now: they are `usable`, and torch.compile is not tracing."""
    return usable(*tensors) and not torch.compiler.is_compiling()


def call(name: str, *arguments: Tensor | float | None) -> None:
    """Call a kernel on contiguous tensors (None is a null pointer) and numbers, on as many threads as PyTorch uses."""
    plain = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous(), (name, argument.shape, argument.stride())
            argument = argument.data_ptr()
        plain.append(argument)
    if _functions[name](*plain, torch.get_num_threads()):
        raise MemoryError(f"no memory left for {name}")


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `openwork.kernels.twins.abs_topk`."""
    zero_cut = torch.empty(x.shape[:-1], dtype=torch.int32)
    return abs_topk_alone(x, k, zero_cut), zero_cut


def abs_topk_alone(x: Tensor, k: int, zero_cut: Tensor | None = None) -> Tensor:
    """The y of `abs_topk`; of a single token, to make a second tensor would take as long."""
    x, d = x.contiguous(), x.shape[-1]
    y = torch.empty_like(x)
    call("abs_topk", x, y, zero_cut, x.numel() // d, d, k)
    return y


def abs_topk_backward(dy: Tensor, y: Tensor, zero_cut: Tensor) -> Tensor:
    """As `openwork.kernels.twins.abs_topk_backward`; y and zero_cut as `abs_topk` returned them."""
    dx, d = torch.empty_like(y), y.shape[-1]
    call("abs_topk_backward", dy.contiguous(), y, zero_cut, dx, y.numel() // d, d)
    return dx


def gelu_abs_topk_backward(dy: Tensor, slopes: Tensor) -> Tensor:
    """dy times the slopes of the GELU where an entry was kept; zero, also of NaN, where they are zero."""
    dx = torch.empty_like(slopes)
    call("gelu_abs_topk_backward", dy.contiguous(), slopes, dx, dx.numel())
    return dx


def keep_topk_(weight: Tensor, k: int, floor: int, axis: int) -> None:
    """As `openwork.kernels.twins.keep_topk_`."""
    assert 0 < k < weight.numel()
    dense = weight.detach().contiguous()
    call("keep_topk", dense, *dense.shape, k, floor, axis)
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
    out = [starts, columns, torch.empty(n), t_starts, t_rows, order]
    call("compress", weight, *out, rows, cols)
    return out


def sparse_linear(
    x: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    bias: Tensor | None,
    d_out: int,
    k: int = 0,
    gelu: bool = False,
    zero_cut: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """As `openwork.kernels.twins.sparse_linear`, or, if k > 0, AbsTopK of that or of its GELU, in one pass.

    This fills zero_cut (...,), int32, as `openwork.kernels.twins.abs_topk` returns it, and slopes (..., d_out): the
    GELU's where an entry was kept, zeros elsewhere.
    """
    assert starts.shape == (d_out + 1,)
    x, d_in = x.detach().contiguous(), x.shape[-1]
    y = torch.empty(*x.shape[:-1], d_out)
    sizes = (x.numel() // d_in, d_in, d_out, k, gelu)
    call("sparse_linear", x, starts, columns, values, bias, y, zero_cut, slopes, *sizes)
    return y


def sparse_vector(
    x: Tensor, t_starts: Tensor, t_rows: Tensor, t_values: Tensor, bias: Tensor | None, d_out: int
) -> Tensor:
    """As `openwork.kernels.twins.sparse_vector`."""
    x, d_in = x.contiguous(), x.shape[-1]
    y = torch.empty(*x.shape[:-1], d_out)
    call("sparse_vector", x, t_starts, t_rows, t_values, bias, y, x.numel() // d_in, d_in, d_out)
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
    y: Tensor | None = None,
    zero_cut: Tensor | None = None,
    slopes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `openwork.kernels.twins.sparse_linear_backward`; after AbsTopK, with y and zero_cut or (after a GELU) slopes,
    dy being the gradient of the kept entries."""
    x, parts = x.detach().contiguous(), torch.get_num_threads()
    dx, d_in, d_out, n = torch.empty_like(x), x.shape[-1], dy.shape[-1], len(columns)
    gradients, weight = torch.empty(parts, n + d_out), (starts, columns, values, t_starts, t_rows, order)
    sizes = (x.numel() // d_in, d_in, d_out, parts)
    call("sparse_linear_backward", dy.contiguous(), y, zero_cut, slopes, x, *weight, dx, gradients, *sizes)
    return dx, gradients[0, :n], gradients[0, n:]


def adam_step_(parameter: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, *numbers: float) -> None:
    """As `openwork.kernels.twins.adam_step_`; all but the gradient are contiguous."""
    call("adam_step", parameter, gradient.contiguous(), exp_avg, exp_avg_sq, parameter.numel(), *numbers)
    torch.autograd.graph.increment_version(parameter)
