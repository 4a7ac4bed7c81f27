"""How large a model is, asked before it is built: one that does not fit would take the machine with it."""

from __future__ import annotations

import os

from openwork.errors import UserError
from openwork.model.transformer import ModelConfig


def n_weights(config: ModelConfig) -> int:
    """The weights of the matrices of such a model, positions included, biases not: nearly all it has."""
    attention = 4 * config.d_model * config.n_heads * config.d_head
    mlp = 2 * config.d_model * config.d_mlp
    ends = 2 * config.d_model * config.d_vocab
    bigram = config.d_vocab**2 if config.bigram != "off" else 0
    positions = (
        config.n_ctx * {"none": 0, "learned": config.d_model, "concatenated": config.d_position}[config.positions]
    )
    return config.n_layers * (attention + mlp) + ends + bigram + positions


def check_memory(config: ModelConfig, copies: int) -> None:
    """Refuse a model of which `copies` in 32 bits are larger than the memory of this machine.

    Raises:
        UserError: with both sizes.
    """
    need = 4 * copies * n_weights(config)
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else need
    if need > have:
        raise UserError(
            f"a model of {n_weights(config):,} weights needs {need / 2**30:,.0f} GiB, this machine has "
            f"{have / 2**30:,.0f}; lower model.d_model {config.d_model}, model.n_layers {config.n_layers}, "
            f"model.d_vocab {config.d_vocab} or, where positions are learned, model.n_ctx {config.n_ctx}"
        )
