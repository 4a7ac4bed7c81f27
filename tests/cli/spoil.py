"""Small settings for the commands, and ways to spoil what they read."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

TINY = (
    *("model.n_layers=1", "model.d_model=16", "model.d_head=4", "model.n_ctx=64", "model.d_vocab=512"),
    *("sparsity.density=1/4", "tokens=1024", "batch_size=4", "validation_tokens=128", "checkpoint_every=2"),
)
QUICK = ("steps=2", "pairs=2", "fixed_pairs=4", "validation_pairs=4")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_space(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
