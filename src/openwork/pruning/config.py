"""How a circuit is looked for."""

from __future__ import annotations

import math
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
    edge_prices: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03)
    """Prices of an edge, times that of a node: each trial of nodes that is left goes on with all of them."""
    steps: int = 240
    """Gradient steps of the trial that goes all the way, and of each trial of edges."""
    pairs: int = 16
    """Pairs per step of nodes."""
    edge_pairs: int = 32
    """Pairs per step of edges, of which few are left to run."""
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
    """Validation pairs of the stated loss, to which clean-up keeps too. Circuits of hundreds of edges fit so few."""

    def __post_init__(self) -> None:
        counts = ("candidates", "steps", "pairs", "edge_pairs", "fixed_pairs", "validation_pairs")
        for name in ("target", "learning_rate", "warmup", *counts):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"prune.{name} is {getattr(self, name)}; it must be greater than 0, and finite")
        for name in ("init_bias", "init_noise", "weight_decay"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"prune.{name} is {getattr(self, name)}; it must be finite")
        if not 0 <= self.beta2 < 1:
            raise UserError(f"prune.beta2 is {self.beta2}; it must lie in [0, 1)")
        for name in ("k_coefs", "edge_prices"):
            prices = getattr(self, name)
            if not prices or not all(0 <= price < math.inf for price in prices):
                raise UserError(f"prune.{name} is {prices}; give one or more prices of at least 0, and finite")
