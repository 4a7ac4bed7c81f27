"""What this package is compared with: the same model and method in PyTorch's own operators alone.

Selections are made by torch.topk, masks are dense, AdamW is PyTorch's fused one: what public implementations do, in its
faster forms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.kernels import rms_norm
from openwork.model import Transformer
from openwork.sparsity import density_at, learning_rate_at, quotas
from openwork.sparsity.optimizer import decays
from openwork.training import TrainConfig
from openwork.training.metrics import next_token_loss


def plain_abs_topk(x: Tensor, k: int) -> Tensor:
    """AbsTopK by sorting a part of every row."""
    chosen = x.abs().topk(k, dim=-1).indices
    return torch.zeros_like(x).scatter(-1, chosen, x.gather(-1, chosen))


def plain_keep_topk_(weight: Tensor, k: int, floor: int = 0, axis: int = 1) -> None:
    """The projection by a mask from torch.topk; with a floor it keeps a few more than k."""
    keep = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    keep[weight.abs().flatten().topk(k).indices] = True
    if floor and weight.dim() == 2:
        line = torch.zeros_like(weight, dtype=torch.bool)
        line.scatter_(axis, weight.abs().topk(min(floor, weight.shape[axis]), dim=axis).indices, True)
        keep |= line.flatten()
    weight.mul_(keep.view_as(weight))


@contextmanager
def plain_operators() -> Iterator[None]:
    """Within, the model's functions are PyTorch's own."""
    with (
        mock.patch("openwork.model.transformer.abs_topk", plain_abs_topk),
        mock.patch("openwork.model.transformer.gelu_abs_topk", lambda x, k: plain_abs_topk(F.gelu(x), k)),
        mock.patch("openwork.model.transformer.rms_norm_abs_topk", lambda x, w, k: plain_abs_topk(rms_norm(x, w), k)),
        mock.patch("openwork.kernels.library.here", lambda *tensors: False),
    ):
        yield


def plain_stepper(model: Transformer, config: TrainConfig, batch: Tensor) -> Callable[[int], None]:
    """A function that takes one training step of the method in plain PyTorch; dense where the config's density is 1."""
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if decays(name, p)], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if not decays(name, p)], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)

    def step(number: int) -> None:
        progress = number / config.n_steps
        density = density_at(progress, config.sparsity)
        with plain_operators(), torch.autocast("cuda", torch.bfloat16, enabled=batch.is_cuda):
            loss = next_token_loss(model(batch[:, :-1]), batch[:, 1:])
        with plain_operators():
            loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        rms = float(norm) / sum(gradient.numel() for gradient in gradients) ** 0.5
        torch._foreach_mul_(gradients, 1 / rms)
        for group in adam.param_groups:
            group["lr"] = learning_rate_at(progress, config.learning_rate, config.warmup, density, config.sparsity)
        adam.step()
        with torch.no_grad():
            for quota in quotas(model, config.sparsity, density):
                plain_keep_topk_(quota.parameter, quota.k, quota.floor, quota.axis)
        adam.zero_grad(set_to_none=True)

    return step
