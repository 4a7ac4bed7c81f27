"""Learning gates by gradient: many trials, each with its own price and seed, as one batch (paper, A.5).

A trial minimises calibrated task loss, the price of its scale included, + k_coef * open gates over its taus with AdamW.
Its epsilon is the price: a gate that nothing but its price moves closes slowly, one that the loss needs reopens at the
full rate. So the gates of a mechanism do not all close while the loss is still too low to tell them. All trials see the
same pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.pruning.calibration import calibrated_losses
from openwork.pruning.compact import Compact
from openwork.pruning.config import PruneConfig
from openwork.pruning.gates import StepGate

Opened = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""From gates (M, gates) to those of nodes (M, nodes) and edges (M, edges; None: all open)."""

EPS = 1e-6


@dataclass(frozen=True)
class Trials:
    """M searches: their settings, their taus (M, gates) and AdamW's running moments of the gradient."""

    seed: tuple[int, ...]
    k_coef: tuple[float, ...]
    tau: Tensor
    mean: Tensor
    square: Tensor
    step: int = 0

    @classmethod
    def start(cls, seed: tuple[int, ...], k_coef: tuple[float, ...], tau: Tensor) -> Trials:
        """At step 0, from `tau` (M, gates)."""
        return cls(seed, k_coef, tau, torch.zeros_like(tau), torch.zeros_like(tau))

    def rows(self, rows: list[int]) -> Trials:
        """The trials `rows` alone."""
        part = {name: getattr(self, name)[rows] for name in ("tau", "mean", "square")}
        return replace(self, seed=tuple(self.seed[i] for i in rows), k_coef=tuple(self.k_coef[i] for i in rows), **part)

    def columns(self, columns: Tensor) -> Trials:
        """The trials with the gates `columns` alone."""
        return replace(self, **{name: getattr(self, name)[:, columns] for name in ("tau", "mean", "square")})


def learn(
    trials: Trials,
    compact: Compact,
    opened: Opened,
    weights: Tensor,
    config: PruneConfig,
    steps: int,
    total: int,
    report: Callable[[Trials, Tensor, Tensor], None],
) -> Trials:
    """`trials` after `steps` more of `total`; `weights` (gates,) says how many prices each gate costs.

    Raises:
        UserError: the settings are so large that taus are not finite any more.
    """
    price = torch.tensor(trials.k_coef)[:, None] * weights
    draw = torch.Generator().manual_seed(trials.seed[0] * total + trials.step)
    for _ in range(steps):
        which = torch.randperm(len(compact.pairs), generator=draw)[: config.pairs]
        tau = trials.tau.clone().requires_grad_()
        gate = StepGate.apply(tau)
        loss = calibrated_losses(compact.differences(*opened(gate), which))
        (gradient,) = torch.autograd.grad(loss.sum() + (price * gate).sum(), tau)
        trials = _adamw(trials, gradient, price + EPS, config, total)
        report(trials, loss.detach(), gate.detach())
    if not trials.tau.isfinite().all():
        raise UserError(
            f"gates are not finite any more at step {trials.step}, with prices up to {max(trials.k_coef):g} and "
            f"prune.learning_rate {config.learning_rate:g}; lower prune.k_coefs, edge_prices or learning_rate"
        )
    return trials


def _adamw(trials: Trials, gradient: Tensor, eps: Tensor, config: PruneConfig, total: int) -> Trials:
    """One step of AdamW, its learning rate rising over the warm-up, then falling to 0 at `total`."""
    beta1, beta2 = 0.9, config.beta2
    step = trials.step + 1
    rate = config.learning_rate * min(1, step / (config.warmup * total)) * (1 - (step - 1) / total)
    mean = torch.lerp(gradient, trials.mean, beta1)
    square = torch.lerp(gradient.square(), trials.square, beta2)
    change = mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + eps)
    tau = (trials.tau * (1 - rate * config.weight_decay) - rate * change).clamp(-1, 1)
    return replace(trials, tau=tau, mean=mean, square=square, step=step)
