"""From ranked gates to a circuit: how many are needed, which of them are not, and the calibration of the answer.

All three judge by the loss on fixed pairs, so that the same set of gates always has the same loss (paper, A.5).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE_PRICE = 0.02
"""Nats per squared logarithm of a calibration's scale above 1."""
LossOf = Callable[[Tensor], float]
"""Loss of a circuit, given the numbers (int64) of its open gates."""


def fewest(ranking: Tensor, loss_of: LossOf, target: float) -> Tensor | None:
    """The shortest head of `ranking` (gates, the most needed first) with a loss of at most `target`; None if none has.

    By bisection, which assumes that the loss falls as gates open.
    """
    if loss_of(ranking) > target:
        return None
    too_few, enough = -1, len(ranking)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if loss_of(ranking[:middle]) <= target:
            enough = middle
        else:
            too_few = middle
    return ranking[:enough]


def clean_up(gates: Tensor, loss_of: LossOf, target: float) -> Tensor:
    """Close every gate that is not needed for a loss of at most `target`, the last ones of `gates` first.

    Tries halves, then quarters, down to single gates, and single gates again until none can go: what is left is locally
    minimal.
    """
    kept, size = gates.flip(0), max(1, len(gates) // 2)
    while True:
        before, start = len(kept), 0
        while start < len(kept):
            trial = torch.cat([kept[:start], kept[start + size :]])
            if loss_of(trial) <= target:
                kept = trial
            else:
                start += size
        if size == 1 and len(kept) == before:
            return kept.flip(0)
        size = max(1, size // 2)


def calibrate(differences: Tensor, steps: int = 16) -> tuple[float, float]:
    """Scale and shift of the answers' logit difference that minimise the loss, by L-BFGS (paper, A.5).

    `differences` (pair, 2) is logit of answer A minus logit of answer B for the member whose right answer is A and the
    one whose right answer is B. A shift common to all logits would change nothing under softmax, so it shifts this
    difference. A circuit that is always right would ask for an infinite scale: a price on the squared logarithm of
    scales above 1 holds it back.
    """
    differences = differences.detach().double()
    parameters = torch.zeros(2, dtype=torch.float64, device=differences.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=steps, line_search_fn="strong_wolfe")
    signs = torch.tensor([-1.0, 1.0], dtype=torch.float64, device=differences.device)

    def closure() -> Tensor:
        optimizer.zero_grad()
        log_scale, shift = parameters
        loss = F.softplus((log_scale.exp() * differences + shift) * signs).mean()
        (loss + SCALE_PRICE * F.relu(log_scale) ** 2).backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]
    log_scale, shift = parameters.detach()
    return float(log_scale.exp()), float(shift)
