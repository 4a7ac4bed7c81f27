"""Adam as the method uses it: the model's gradient is scaled to RMS 1 at every step, eps is 0.1 (paper, A.2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def scale_to_rms_one_(gradients: list[Tensor]) -> float:
    """Divide the gradients, in place, by their common root mean square over all entries; returns that RMS.

    A gradient of zero or with a NaN or an infinity is left as it is, and its RMS tells so.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    rms = float(norm) / sum(gradient.numel() for gradient in gradients) ** 0.5
    if 0 < rms < float("inf"):
        torch._foreach_mul_(gradients, 1 / rms)
    return rms


def make_adam(
    named: Iterable[tuple[str, nn.Parameter]], betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW whose decoupled decay acts on weight matrices and embeddings alone: no bias, norm, sink or bigram table."""
    trained = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    decayed = [parameter for name, parameter in trained if parameter.dim() == 2 and not name.endswith("bigram")]
    others = [parameter for name, parameter in trained if parameter.dim() != 2 or name.endswith("bigram")]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True)
