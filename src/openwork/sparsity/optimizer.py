"""Adam as the method uses it: the model's gradient is scaled to RMS 1 at every step, eps is 0.1 (paper, A.2).

`Adam` is the exact method: a gradient and two moments for every weight, zero or not. `openwork.sparsity.kept` has the
form that pays for the kept weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openwork.kernels import adam_step_each_
from openwork.sparsity.projection import Quota, project_


@dataclass(frozen=True)
class AdamConfig:
    """What does not change from step to step."""

    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 0.1
    weight_decay: float = 0.1
    """Decoupled; acts on weight matrices and embeddings alone: no bias, norm, sink or bigram table."""


class Adam:
    """The optimiser of a training run: `begin`, backward, `gradient_rms`, `step`, `zero_grad`."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], config: AdamConfig) -> None:
        self.config = config
        self.parameters = {name: parameter for name, parameter in named if parameter.requires_grad}
        self.moments = {
            name: (torch.zeros_like(p.data), torch.zeros_like(p.data)) for name, p in self.parameters.items()
        }
        self.n = 0
        """Steps taken."""

    def begin(self, step: int) -> None:
        """Before the forward pass of training step `step`, from 0."""

    def gradient_rms(self) -> float:
        """The root mean square of the gradient over all weights."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        return norm(gradients) / sum(gradient.numel() for gradient in gradients) ** 0.5

    def step(self, rate: float, gradient_rms: float, plan: Sequence[Quota]) -> None:
        """Scale the gradient to RMS 1 (one of zero stays as it is), take the step, project by `plan`."""
        self.n += 1
        self.update(rate, gradient_rms)
        project_(plan)

    def update(self, rate: float, gradient_rms: float) -> None:
        """Adam's change of every parameter that has a gradient and moments."""
        each = []
        for name, moments in self.moments.items():
            parameter = self.parameters[name]
            if parameter.grad is not None:
                decay = self.config.weight_decay if decays(name, parameter) else 0.0
                each.append((parameter, parameter.grad, *moments, decay))
        adam_step_each_(each, **self.options(rate, gradient_rms))

    def options(self, rate: float, gradient_rms: float) -> dict[str, Any]:
        """What this step is for every tensor."""
        scale = 1 / gradient_rms if gradient_rms > 0 else 1.0
        return {"n": self.n, "rate": rate, "betas": self.config.betas, "eps": self.config.eps, "scale": scale}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def settle(self) -> None:
        """Bring the model's parameters up to date where the optimiser has newer ones; call it after the last step."""

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, by name."""
        kinds = ("exp_avg", "exp_avg_sq")
        return {f"{k}.{name}": m for name, pair in self.moments.items() for k, m in zip(kinds, pair, strict=True)}

    def load_state(self, state: dict[str, Tensor], n: int) -> None:
        """Go on from `state` after `n` steps."""
        self.n = n
        self.moments = {
            name: (state[f"exp_avg.{name}"].to(p.device), state[f"exp_avg_sq.{name}"].to(p.device))
            for name, p in self.parameters.items()
            if f"exp_avg.{name}" in state
        }


def norm(gradients: Sequence[Tensor]) -> float:
    """The Euclidean norm over all entries of all gradients."""
    return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients)))))


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts on the parameter."""
    return parameter.dim() == 2 and not name.endswith("bigram")
