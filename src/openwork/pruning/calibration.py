"""Calibration: the scale and the shift of the answers' logit difference that suit a circuit best (paper, A.5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.tasks import Pairs
from openwork.tasks.base import SIGNS

SCALE_PRICE = 0.05
"""Nats per squared logarithm of a calibration's scale above 1: a target of 0.15 asks for answers that lie 0.29 apart
before calibration, 0.03 for 2.5. Without it any trace of the answer, made large enough, would do."""
STEPS = 16


def calibrated_losses(differences: Tensor) -> Tensor:
    """The loss (...) in nats of `differences` (..., pair, 2), each circuit with the scale and shift that suit it best.

    Scale and shift are taken as given by the gradient: it is that of the loss with the scale's price, at whose minimum
    they have none of their own.
    """
    scale, shift = (x[..., None, None].to(differences) for x in calibrate(differences))
    return Pairs.losses(scale * differences + shift)


@torch.no_grad()
def calibrate(differences: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (...) of logit differences A - B (..., pair, 2) that minimise the loss, float64.

    A shift common to all logits would change nothing under softmax, so it shifts this difference. A circuit that is
    always right would ask for an infinite scale: a price on the squared logarithm of scales above 1 holds it back.
    Levenberg-Marquardt steps in the scale's logarithm and the shift, all circuits at once. They start at the mean and
    at a scale at which no prompt is decided yet: where all differences lie far to one side, as a circuit's often do, a
    shift of 0 would be where the loss is flat.
    """
    d = differences.detach().double().flatten(-2)
    centre = d.mean(-1)
    d = d - centre[..., None]
    signs = d.new_tensor(SIGNS).repeat(d.shape[-1] // 2)
    log_scale, shift = -d.square().mean(-1).sqrt().clamp_min(1).log(), d.new_zeros(d.shape[:-1])
    damping = torch.full_like(shift, 1e-3)
    best = _priced(d, signs, log_scale, shift)
    for _ in range(STEPS):
        to_scale, to_shift = _step(d, signs, log_scale, shift, damping)
        new_scale, new_shift = (log_scale - to_scale).clamp(-8, 8), shift - to_shift
        loss = _priced(d, signs, new_scale, new_shift)
        better = loss <= best
        log_scale, shift = torch.where(better, new_scale, log_scale), torch.where(better, new_shift, shift)
        best = torch.where(better, loss, best)
        damping = torch.where(better, damping * 0.3, damping * 10)
    scale = log_scale.exp()
    return scale, shift - scale * centre


def _priced(d: Tensor, signs: Tensor, log_scale: Tensor, shift: Tensor) -> Tensor:
    loss = F.softplus((log_scale.exp()[..., None] * d + shift[..., None]) * signs).mean(-1)
    return loss + SCALE_PRICE * F.relu(log_scale) ** 2


def _step(d: Tensor, signs: Tensor, log_scale: Tensor, shift: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """The damped Newton step: solves (H + damping) step = gradient for each circuit, H two by two."""
    scaled = log_scale.exp()[..., None] * d
    wrong = torch.sigmoid((scaled + shift[..., None]) * signs)
    curvature = wrong * (1 - wrong) + 1e-6
    by_scale = (wrong * signs * scaled).mean(-1) + 2 * SCALE_PRICE * F.relu(log_scale)
    by_shift = (wrong * signs).mean(-1)
    a = (curvature * scaled**2).mean(-1) + 2 * SCALE_PRICE * (log_scale > 0) + damping
    b = (curvature * scaled).mean(-1)
    c = curvature.mean(-1) + damping
    determinant = a * c - b**2
    to_scale, to_shift = (c * by_scale - b * by_shift) / determinant, (a * by_shift - b * by_scale) / determinant
    return to_scale.clamp(-2, 2), to_shift.clamp(-2, 2)
