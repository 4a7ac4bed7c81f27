"""The projection after every optimiser step: each matrix keeps its k largest magnitudes (paper, 2.1).

Which tensor keeps how many is a list of `Quota`, made from the model and the density of the moment; `project_` carries
it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from openwork.errors import UserError
from openwork.kernels import keep_topk_each_


@dataclass(frozen=True)
class SparsityConfig:
    """How sparse the weights become, and when."""

    density: float = 1 / 32
    """Fraction of each weight matrix that is non-zero at the end; 1 is a dense model."""
    embedding_density: float | None = None
    """The same for embedding and unembedding; 4 times `density` (at most 1) if None."""
    bias_density: float | None = None
    """The same for each bias vector; 4 times `density` (at most 1) if None."""
    floor: int = 4
    """Non-zeros that every neuron and attention channel keeps; 0 for none."""
    anneal: Literal["linear", "exponential"] = "exponential"
    """How the density falls from 1 to its end."""
    anneal_start: float = 0.01
    anneal_end: float = 0.5
    """When it starts and ends to fall, as fractions of training."""

    def __post_init__(self) -> None:
        for name in ("density", "embedding_density", "bias_density"):
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, min(1.0, 4 * self.density))
            elif not 0 < value <= 1:
                raise UserError(f"sparsity.{name} is {value}; it must lie in (0, 1]")
            elif value < self.density:
                raise UserError(
                    f"sparsity.{name} {value} is less than sparsity.density {self.density}, with which embeddings and "
                    "biases become sparse in step; give at least that"
                )
        if not 0 <= self.anneal_start <= self.anneal_end <= 1:
            raise UserError(
                f"sparsity.anneal_start {self.anneal_start} and anneal_end {self.anneal_end} must be ordered within "
                "0 and 1"
            )
        if self.floor < 0:
            raise UserError(f"sparsity.floor is {self.floor}; it must be at least 0")


@dataclass(frozen=True)
class Quota:
    """How many entries of one parameter may be non-zero."""

    name: str
    parameter: nn.Parameter
    k: int
    floor: int
    """Entries that each row (axis 1) or column (axis 0) keeps at least."""
    axis: Literal[0, 1]


def quotas(model: nn.Module, config: SparsityConfig, density: float) -> list[Quota]:
    """The quota of every sparse parameter of `model` at `density`, between 1 and ``config.density``.

    The floor counts along the inputs of q, k, v and the MLP's first matrix, and along the outputs of the two
    projections back into the residual stream: always per neuron or attention channel (paper, A.2). Norms, sinks,
    positions and the bigram table stay dense. Embeddings and biases move in step with the matrices, from 1 to their own
    densities.

    Raises:
        UserError: the floors alone need more entries than a matrix may keep.
    """
    plan = []
    for name, parameter in model.named_parameters():
        final, floor, axis = _rule(name, config)
        now = max(final, density) if final < 1 else 1.0
        if now >= 1:
            continue
        k = max(1, round(now * parameter.numel()))
        lines = parameter.shape[1 - axis] if floor else 0
        if floor * lines > k:
            raise UserError(
                f"{name} {tuple(parameter.shape)} may keep {k} weights at density {now:.4g}, but {lines} neurons or "
                f"channels with sparsity.floor {floor} need {floor * lines}; raise sparsity.density or lower "
                "sparsity.floor"
            )
        plan.append(Quota(name, parameter, k, floor, axis))
    return plan


def _rule(name: str, config: SparsityConfig) -> tuple[float, int, Literal[0, 1]]:
    """Final density, floor and axis of the parameter `name`."""
    assert config.embedding_density is not None and config.bias_density is not None
    if "norm" in name or name.endswith(("sink", "position", "bigram")):
        return 1.0, 0, 1
    if name in ("embed.weight", "unembed.weight"):
        return config.embedding_density, 0, 1
    if name.endswith("bias"):
        return config.bias_density, 0, 1
    return config.density, config.floor, 0 if name.endswith(("out.weight", "down.weight")) else 1


@torch.no_grad()
def project_(plan: Sequence[Quota]) -> None:
    """Zero, in place, all but the k largest magnitudes of each parameter, its floor among them."""
    keep_topk_each_((quota.parameter, quota.k, quota.floor, quota.axis) for quota in plan)


def count_nonzero(parameters: Sequence[tuple[str, Tensor]]) -> dict[str, int]:
    """L0: the non-zero entries of each named parameter."""
    return {name: int(torch.count_nonzero(parameter)) for name, parameter in parameters}
