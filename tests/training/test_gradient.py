"""The gradient of a batch: what autograd gives, also from a recording."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.model import ModelConfig, Transformer
from openwork.training.gradient import Gradient

SHAPE = ModelConfig(n_layers=2, d_model=32, d_head=16, n_ctx=16, d_vocab=64, bigram="learned")


def batches(*sizes: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randint(0, 64, (size, 17), generator=random) for size in sizes]


def expected(model: Transformer, batch: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, list[Tensor | None]]:
    """Loss and gradients by PyTorch's own operators, products on a GPU of `dtype`."""
    with torch.autocast("cuda", dtype, enabled=dtype is not None):
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())
    return loss.detach(), list(torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad]))


def of_parameters(model: Transformer) -> list[Tensor | None]:
    return [p.grad for p in model.parameters() if p.requires_grad]


def test_it_is_that_of_the_mean_cross_entropy():
    model, (batch,) = Transformer(SHAPE), batches(3)
    loss, gradients = expected(model, batch)
    torch.testing.assert_close(Gradient(model)(batch), loss)
    torch.testing.assert_close(of_parameters(model), gradients)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("record", [True, False])
def test_on_a_gpu_it_follows_batch_and_weights(precision, record):
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    model = Transformer(SHAPE).cuda()
    gradient = Gradient(model, precision, record)
    for batch in batches(3, 3, 5, 3):  # the third and fourth are of another shape than the one before
        loss, gradients = expected(model, batch.cuda(), dtype)
        torch.testing.assert_close(gradient(batch.cuda()), loss)
        torch.testing.assert_close(of_parameters(model), gradients, rtol=1e-3, atol=1e-5)
        for parameter in model.parameters():
            parameter.grad = None
            parameter.data.mul_(0.9)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("shape", [{"d_head": 4}, {"positions": "concatenated"}, {"bigram": "counted"}, {"tied": True}])
def test_on_a_gpu_every_wiring_can_be_recorded(shape):
    model, (batch,) = Transformer(ModelConfig(**{**vars(SHAPE), "n_heads": 0, **shape})).cuda(), batches(3)
    gradient = Gradient(model)
    for _ in range(2):
        loss, gradients = expected(model, batch.cuda())
        torch.testing.assert_close(gradient(batch.cuda()), loss)
        torch.testing.assert_close(of_parameters(model), gradients, rtol=1e-3, atol=1e-5)
