"""The kernels: one function each, compiled where a C++ compiler was found, else its twin in plain PyTorch. On a GPU
the selections and Adam are Triton's (`openwork.kernels.gpu`), all else is PyTorch's.

All are deterministic: the same bits on every run with the same number of threads. The selections are exact, and their
twins give the same bits; products and sums agree with theirs to rounding. ``OPENWORK_KERNELS=torch`` in the environment
chooses the twins. ``torch.compile``, ``torch.export`` and dispatch modes see operators, ``torch.ops.openwork``.
"""

from __future__ import annotations

from openwork.kernels import library
from openwork.kernels.adam import adam_step_, adam_step_each_
from openwork.kernels.passes import cross_entropy, gelu, gelu_abs_topk, rms_norm, rms_norm_abs_topk
from openwork.kernels.products import (
    Product,
    SparseWeight,
    compress,
    compress_below,
    exact_linear,
    sparse_linear,
    sparse_linears,
    sparse_vector,
)
from openwork.kernels.selection import abs_topk, keep_topk_, keep_topk_each_
from openwork.kernels.skipping import linear

__all__ = [
    "Product",
    "SparseWeight",
    "abs_topk",
    "adam_step_",
    "adam_step_each_",
    "compress",
    "compress_below",
    "cross_entropy",
    "exact_linear",
    "gelu",
    "gelu_abs_topk",
    "keep_topk_",
    "keep_topk_each_",
    "linear",
    "native",
    "rms_norm",
    "rms_norm_abs_topk",
    "sparse_linear",
    "sparse_linears",
    "sparse_vector",
]

native: bool = library.library is not None
"""Whether the compiled kernels are used (for float32 tensors in main memory)."""
