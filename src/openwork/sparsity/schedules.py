"""Schedules of training as functions of progress, the fraction of training in [0, 1] that is done."""

from __future__ import annotations

from openwork.sparsity.projection import SparsityConfig


def density_at(progress: float, config: SparsityConfig) -> float:
    """Density of the weight matrices: 1 until `anneal_start`, then falling, `density` from `anneal_end` on."""
    span = config.anneal_end - config.anneal_start
    done = (progress - config.anneal_start) / span if span > 0 else float(progress >= config.anneal_end)
    done = min(1.0, max(0.0, done))
    match config.anneal:
        case "linear":
            return 1 + (config.density - 1) * done
        case "exponential":
            return config.density**done


def sharkfin(density: float, config: SparsityConfig) -> float:
    """The factor 1 / sqrt(L0) on the learning rate, 1 at the final L0 (not at dense, where it is smallest).

    So a learning rate is stated for the sparse end of training, as in the paper's release (A.2).
    """
    return (config.density / density) ** 0.5


def learning_rate_at(progress: float, peak: float, warmup: float, density: float, config: SparsityConfig) -> float:
    """Linear warm-up over the fraction `warmup` of training and linear decay to 0, times the sharkfin factor."""
    rise = min(1.0, progress / warmup) if warmup > 0 else 1.0
    return peak * rise * (1 - progress) * sharkfin(density, config)
