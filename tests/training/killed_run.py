"""Run by test_resume.py in a process of its own: trains, and kills itself (SIGKILL) at the n-th call of a function.

usage: killed_run.py MODE CORPUS OUT MODULE.FUNCTION|none N
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal, cast

import torch

from openwork.corpus import open_corpus
from openwork.model import ModelConfig
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig, train


def config(mode: Literal["exact", "fast"] = "exact") -> TrainConfig:
    return TrainConfig(
        mode=mode,
        refresh_every=3,
        model=ModelConfig(n_layers=1, d_model=16, d_head=4, n_ctx=8, d_vocab=300, bigram="learned"),
        sparsity=SparsityConfig(density=1 / 8, embedding_density=1 / 8, floor=2),
        tokens=12 * 4 * 8,
        batch_size=4,
        learning_rate=0.02,
        validate_every=4,
        validation_tokens=64,
        checkpoint_every=3,
        device="cpu",
    )


def kill_at_call(name: str, n: int) -> None:
    """Replace the function `name` by one that kills this process at its `n`-th call."""
    module_name, _, function_name = name.rpartition(".")
    module = importlib.import_module(module_name)
    original, calls = getattr(module, function_name), [0]

    def counted(*args: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **options)

    setattr(module, function_name, counted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    mode, corpus, out, point, n = sys.argv[1:]
    if point != "none":
        kill_at_call(point, int(n))
    train(open_corpus(corpus), config(cast(Literal["exact", "fast"], mode)), Path(out))
