"""The compiled kernels, called through ctypes on the memory of tensors.

They use the threads of the OpenMP runtime that PyTorch loaded, as many as ``torch.get_num_threads()`` says.
``OPENWORK_KERNELS`` in the environment may be ``torch`` (use the twins) or the path of another build of the library.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack

from openwork.kernels import build

_PLAIN = (Tensor, torch.nn.Parameter)
_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "abs_topk": (None, [_POINTER, _POINTER, _POINTER, _LONG, _LONG, _LONG, _INT]),
    "abs_topk_backward": (None, [_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _INT]),
    "abs_topk_zero_cut": (None, [_POINTER, _POINTER, _LONG, _LONG, _LONG, _INT]),
    "keep_topk": (_INT, [_POINTER, _LONG, _INT]),
    "compress_starts": (_LONG, [_POINTER, _POINTER, _LONG, _LONG, _INT]),
    "compress": (None, [*[_POINTER] * 7, _LONG, _LONG, _INT]),
    "sparse_linear": (_INT, [_POINTER, _POINTER, _LONG, _LONG, _LONG, _INT]),
    "sparse_vector": (_INT, [_POINTER, _POINTER, _LONG, _LONG, _LONG, _INT]),
    "sparse_linear_backward": (_INT, [_POINTER, _POINTER, _LONG, _POINTER, _LONG, _LONG, _LONG, _INT]),
    "skipping_product": (_INT, [*[_POINTER] * 4, *[_LONG] * 5, _INT]),
    "adam_step": (None, [*[_POINTER] * 4, _LONG, *[_FLOAT] * 7, _INT]),
    "attention": (_INT, [*[_POINTER] * 6, *[_LONG] * 5, _INT]),
    "attention_backward": (_INT, [*[_POINTER] * 11, *[_LONG] * 4, _INT]),
    "selected_attention": (_INT, [*[_POINTER] * 6, *[_LONG] * 4, _INT]),
    "selected_attention_backward": (_INT, [*[_POINTER] * 13, *[_LONG] * 4, _INT]),
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


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled kernels can work on these: they are there, all tensors are plain ones, float32 in main
    memory, and no dispatch mode is on, which would not see a kernel."""
    for x in tensors:  # a loop, because this is asked for every kernel of every token
        if not x.is_cpu or x.dtype is not torch.float32 or type(x) not in _PLAIN:
            return False
    return library is not None and not _len_torch_dispatch_stack()


def tracing() -> bool:
    """Whether torch.compile or a dispatch mode, such as make_fx or FakeTensorMode, is to see PyTorch's operators."""
    return torch.compiler.is_compiling() or _len_torch_dispatch_stack() > 0


def here(*tensors: Tensor) -> bool:
    """Whether to use the compiled kernels on these now: they are `usable`, and nobody is `tracing`."""
    return not torch.compiler.is_compiling() and usable(*tensors)


def call(name: str, *arguments: Tensor | ctypes.Array | float | None) -> None:
    """Call a kernel on contiguous tensors (None is a null pointer) and numbers, on as many threads as PyTorch uses."""
    plain = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous(), (name, argument.shape, argument.stride())
            argument = argument.data_ptr()
        plain.append(argument)
    if _functions[name](*plain, torch.get_num_threads()):
        raise MemoryError(f"no memory left for {name}")


def _words(arguments: Iterable[Tensor | int | None]) -> ctypes.Array:
    """A C array of structures whose members are all pointers, of contiguous tensors, and 64-bit numbers."""
    plain = []
    for argument in arguments:
        if isinstance(argument, Tensor):
            assert argument.is_contiguous(), (argument.shape, argument.stride())
            argument = argument.data_ptr()
        plain.append(argument or 0)
    return (_LONG * len(plain))(*plain)


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `openwork.kernels.twins.abs_topk`."""
    zero_cut = x.new_empty(x.shape[:-1], dtype=torch.int32)
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


def abs_topk_zero_cut(y: Tensor, k: int) -> Tensor:
    """For each row of y (..., d), which AbsTopK made: the last place at which it kept a zero, int32; -1 if none."""
    zero_cut = y.new_empty(y.shape[:-1], dtype=torch.int32)
    call("abs_topk_zero_cut", y, zero_cut, zero_cut.numel(), y.shape[-1], k)
    return zero_cut


def gelu_abs_topk_backward(dy: Tensor, slopes: Tensor) -> Tensor:
    """dy times the slopes of the GELU where an entry was kept; zero, also of NaN, where they are zero."""
    dx = torch.empty_like(slopes)
    call("gelu_abs_topk_backward", dy.contiguous(), slopes, dx, dx.numel())
    return dx


def keep_topk_each_(wanted: Sequence[tuple[Tensor, int, int, int]]) -> None:
    """As `openwork.kernels.twins.keep_topk_each_`; the threads share what there is to do."""
    words, dense = [], [weight.detach().contiguous() for weight, *_ in wanted]
    for weight, (_, k, floor, axis) in zip(dense, wanted, strict=True):
        assert 0 < k < weight.numel()
        words += [weight, *weight.shape, k, floor, axis]
    call("keep_topk", _words(words), len(dense))
    for weight, (original, *_) in zip(dense, wanted, strict=True):
        if weight.data_ptr() != original.data_ptr():
            original.copy_(weight)
        else:
            torch.autograd.graph.increment_version(original)


def compress(weight: Tensor, below: float = math.inf) -> list[Tensor] | None:
    """As `openwork.kernels.twins.compress`."""
    assert library is not None
    weight, threads = weight.detach().contiguous(), torch.get_num_threads()
    rows, cols = weight.shape
    starts, t_starts = (weight.new_empty(n + 1, dtype=torch.int32) for n in (rows, cols))
    n = library.openwork_compress_starts(weight.data_ptr(), starts.data_ptr(), rows, cols, threads)
    if n >= below * weight.numel():
        return None
    columns, t_rows, order = weight.new_empty(3, n, dtype=torch.int32)
    out = [starts, columns, weight.new_empty(n), t_starts, t_rows, order]
    call("compress", weight, *out, rows, cols)
    return out


def sparse_linear(
    x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, d_out: int
) -> Tensor:
    """As `openwork.kernels.twins.sparse_linear`."""
    assert starts.shape == (d_out + 1,)
    ((y,), _) = sparse_linears(x, [(starts, columns, values, bias, 0, False)])
    return y


class Kept(NamedTuple):
    """What AbsTopK, or AbsTopK of the GELU, kept of a product's outputs."""

    y: Tensor | None
    """(..., d_out): the outputs; None where all were kept."""
    zero_cut: Tensor | None
    """(...,), int32, of AbsTopK, as `openwork.kernels.twins.abs_topk` returns it."""
    slopes: Tensor | None
    """(..., d_out), of AbsTopK of the GELU: this one's slopes where an entry was kept, zeros elsewhere."""


ALL = Kept(None, None, None)


def sparse_linears(
    x: Tensor,
    products: Sequence[tuple[Tensor, Tensor, Tensor, Tensor | None, int, bool]],
    differentiable: bool = False,
) -> tuple[list[Tensor], list[Kept]]:
    """`sparse_linear` by each weight of (starts, columns, values, bias, k, gelu): if k > 0, AbsTopK of that or, with
    gelu, of its GELU. Where they are to be `differentiable`, what was kept is complete."""
    x, d_in, words, outputs, all_kept = x.detach().contiguous(), x.shape[-1], [], [], []
    for starts, columns, values, bias, k, gelu in products:
        y, selects = x.new_empty(*x.shape[:-1], len(starts) - 1), differentiable and k > 0
        zero_cut = x.new_empty(x.shape[:-1], dtype=torch.int32) if selects and not gelu else None
        slopes = torch.empty_like(y) if selects and gelu else None
        outputs.append(y)
        all_kept.append(Kept(y if zero_cut is not None else None, zero_cut, slopes))
        words += [starts, columns, values, bias, y, zero_cut, slopes, y.shape[-1], k, gelu]
    call("sparse_linear", x, _words(words), len(products), x.numel() // d_in, d_in)
    return outputs, all_kept


def sparse_vector(
    x: Tensor, t_starts: Tensor, t_rows: Tensor, t_values: Tensor, bias: Tensor | None, d_out: int
) -> Tensor:
    """As `openwork.kernels.twins.sparse_vector`."""
    return sparse_vectors(x, [(t_starts, packed(t_starts, t_rows, t_values), bias, d_out, 0, False)])[0]


def packed(t_starts: Tensor, t_rows: Tensor, t_values: Tensor) -> Tensor:
    """A weight by columns as `sparse_vectors` reads it: of each input, all values (of two int16), then all rows (of one
    without a sign; there are at most 2^16)."""
    lengths = t_starts.diff()
    start, n = (x.repeat_interleave(lengths).long() for x in (t_starts[:-1], lengths))
    nth = torch.arange(len(t_values), device=start.device) - start
    words = t_values.new_empty(3 * len(t_values), dtype=torch.int16)
    words[(3 * start + 2 * nth)[:, None] + torch.arange(2, device=start.device)] = (
        t_values.detach().contiguous().view(torch.int16).view(-1, 2)
    )
    words[3 * start + 2 * n + nth] = t_rows.to(torch.int16)
    return words


def sparse_vectors(x: Tensor, products: Sequence[tuple[Tensor, Tensor, Tensor | None, int, int, bool]]) -> list[Tensor]:
    """`sparse_vector` by each weight of (t_starts, packed, bias, d_out, k, gelu): if k > 0, AbsTopK of that or, with
    gelu, of its GELU."""
    x, (*shape, d_in), words, outputs = x.contiguous(), x.shape, [], []
    for t_starts, weight, bias, d_out, k, gelu in products:  # no detours: this is done for every product of every token
        assert bias is None or bias.is_contiguous(), bias.shape
        y = x.new_empty(*shape, d_out)
        outputs.append(y)
        at = 0 if bias is None else bias.data_ptr()
        words += (t_starts.data_ptr(), weight.data_ptr(), at, y.data_ptr(), d_out, k, gelu)
    call("sparse_vector", x, (_LONG * len(words))(*words), len(products), x.numel() // d_in, d_in)
    return outputs


def sparse_linear_backward(dy: Tensor, x: Tensor, *weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `openwork.kernels.twins.sparse_linear_backward`."""
    dx, (gradients,) = sparse_linears_backward(x, [(dy, ALL, weight, True)], True)
    assert dx is not None and gradients is not None
    return dx, *gradients


def sparse_linears_backward(
    x: Tensor, products: Sequence[tuple[Tensor, Kept, Sequence[Tensor], bool]], for_x: bool
) -> tuple[Tensor | None, list[tuple[Tensor, Tensor] | None]]:
    """dx of all products together, if it is asked for, and the gradients of those that learn.

    A product is (dy, kept, weight, learns): dy is the gradient of its outputs, `kept` says which of them there were.
    Weight and gradients are as in `sparse_linear_backward`.
    """
    x, d_in, parts = x.detach().contiguous(), x.shape[-1], torch.get_num_threads()
    dx, words, gradients, alive = torch.empty_like(x) if for_x else None, [], [], []
    for dy, kept, (starts, columns, *by_columns), learns in products:
        n, d_out = len(columns), dy.shape[-1]
        own = x.new_empty(parts, n + d_out) if learns else None
        gradients.append(None if own is None else (own[0, :n], own[0, n:]))
        alive.append(dy.contiguous())
        words += [alive[-1], *kept, starts, columns, *by_columns, own, d_out]
    call("sparse_linear_backward", x, _words(words), len(products), dx, x.numel() // d_in, d_in, parts)
    return dx, gradients


def skipping_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a (M, K) times b (K, N), plus bias (N,), at the cost of a's non-zeros.

    Each of both is contiguous, or its transpose is. A zero of a multiplies nothing, not even a NaN or an infinity.
    """
    (m, k), n = a.shape, b.shape[1]
    c, turned = a.new_empty(m, n), [not x.is_contiguous() for x in (a, b)]
    a, b = (x.T if turn else x for x, turn in zip((a, b), turned, strict=True))
    call("skipping_product", a, b, bias, c, m, k, n, *turned)
    return c


def adam_step_(parameter: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, *numbers: float) -> None:
    """As `openwork.kernels.twins.adam_step_`; all but the gradient are contiguous."""
    call("adam_step", parameter, gradient.contiguous(), exp_avg, exp_avg_sq, parameter.numel(), *numbers)
    torch.autograd.graph.increment_version(parameter)
