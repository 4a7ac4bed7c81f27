"""How a circuit is looked for."""

from __future__ import annotations

from dataclasses import dataclass

from openwork.artifacts import Ablation
from openwork.errors import UserError


@dataclass(frozen=True)
class PruneConfig:
    """How a circuit is looked for. The defaults need no tuning per model or task."""

    target: float = 0.15
    """Calibrated task loss that the circuit must reach, in nats (paper: 0.15)."""
    ablation: Ablation = "mean"
    """What a node outside the circuit is set to: its mean over the corpus, or zero."""
    candidates: int = 64
    """Nodes that the search starts from, at least; twice as many until the task can be done with them."""
    k_coefs: tuple[float, ...] = (3e-4, 6e-4, 1.2e-3, 2.5e-3, 5e-3, 1e-2, 1.7e-2, 2.5e-2)
    """Prices of a node, in nats; each seed tries all, and goes on with the better half of them until two are left."""
    steps: int = 240
    """Gradient steps of the trial that goes all the way."""
    pairs: int = 16
    """Pairs per step."""
    learning_rate: float = 5e-2
    init_bias: float = 0.2
    init_noise: float = 0.07
    """Gates start at init_bias + init_noise * normal: so far apart that those of one mechanism do not close at once."""
    weight_decay: float = 1e-3
    beta2: float = 0.95
    warmup: float = 0.05
    """Fraction of the steps over which the learning rate rises."""
    fixed_pairs: int = 128
    """Training pairs on which circuits are compared and cleaned up."""
    validation_pairs: int = 256
    """Validation pairs of the stated loss."""

    def __post_init__(self) -> None:
        counts = ("candidates", "steps", "pairs", "fixed_pairs", "validation_pairs")
        for name in ("target", "learning_rate", "warmup", *counts):
            if not getattr(self, name) > 0:
                raise UserError(f"prune.{name} is {getattr(self, name)}; it must be greater than 0")
        if not self.k_coefs or min(self.k_coefs) < 0:
            raise UserError(f"prune.k_coefs is {self.k_coefs}; give one or more prices of at least 0")
