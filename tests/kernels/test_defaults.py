"""No kernel depends on PyTorch's default type or device: its results are to the bit those under the usual ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openwork import kernels
from openwork.model.attention import attend
from tests.kernels.engines import bits

WEIGHT = F.dropout(torch.randn(128, 96, generator=torch.Generator().manual_seed(1)), 0.9)
KEPT = kernels.compress(WEIGHT)
TARGETS = torch.arange(1_000) % 96


def of_attention(x: Tensor) -> Tensor:
    q, k, v = x.view(5, 200, 96).unbind(0)[:3]
    return attend(q[None], k[None], v[None], 16, x[0, :6])


def of_a_token(x: Tensor) -> Tensor:
    return kernels.sparse_vector(x.detach()[:2], KEPT, KEPT.values[KEPT.order]) + 0 * x.sum()


def of_compressed(x: Tensor) -> Tensor:
    return kernels.compress(x.detach()).values + 0 * x.sum()


def of_adam(x: Tensor) -> Tensor:
    y, m, v = x.detach().clone(), torch.zeros_like(x), torch.zeros_like(x)
    kernels.adam_step_(y, x, m, v, n=1, rate=0.1, betas=(0.9, 0.9), eps=0.1)
    kernels.keep_topk_(y, 500)
    return y + 0 * x.sum()


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "abs_topk": lambda x: kernels.abs_topk(x, 9),
    "adam_step_ and keep_topk_": of_adam,
    "attention": of_attention,
    "compress": of_compressed,
    "cross_entropy": lambda x: kernels.cross_entropy(x, TARGETS),
    "exact_linear": lambda x: kernels.exact_linear(x, WEIGHT, KEPT),
    "gelu": kernels.gelu,
    "gelu_abs_topk": lambda x: kernels.gelu_abs_topk(x, 9),
    "linear": lambda x: kernels.linear(x, WEIGHT, selected=True),
    "linear of zeros": lambda x: kernels.linear(kernels.abs_topk(x, 9), WEIGHT),
    "rms_norm": lambda x: kernels.rms_norm(x, x[0]),
    "rms_norm_abs_topk": lambda x: kernels.rms_norm_abs_topk(x, x[0], 9),
    "sparse_linear": lambda x: kernels.sparse_linear(x, KEPT),
    "sparse_linears": lambda x: kernels.sparse_linears(x, [kernels.Product(KEPT, k=9, gelu=True)])[0],
    "sparse_vector": of_a_token,
}


@contextmanager
def default(of: torch.dtype | str) -> Iterator[None]:
    """With that type, or that device, as PyTorch's default."""
    if isinstance(of, str):
        with torch.device(of):
            yield
        return
    torch.set_default_dtype(of)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("of", [torch.float64, torch.bfloat16, "meta"], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_another_default_type_or_device_changes_nothing(name, of):
    function = FUNCTIONS[name]
    x = torch.randn(1_000, 96, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def outcome() -> tuple[Tensor, ...]:
        with torch.no_grad():
            alone = function(x)
        y = function(x)
        return alone, y, *torch.autograd.grad(y.square().sum(), x)

    want = outcome()
    with default(of):
        found = outcome()
    for a, b in zip(found, want, strict=True):
        assert a.dtype == torch.float32 and torch.equal(bits(a), bits(b))
