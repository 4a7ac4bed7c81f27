"""Checkpoints: all that a run needs to go on as if it had never stopped.

The data of a step is a function of its number and every random draw has its own seed, so the state is the step, the
weights and what the optimiser remembers. Two checkpoints are kept; a damaged newest one is named and set aside, and the
older one is used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from openwork.artifacts import load_tensors, save_tensors
from openwork.errors import UserError
from openwork.sparsity import Adam

KEPT = 2
log = logging.getLogger(__name__)


def save_checkpoint(directory: Path, step: int, model: nn.Module, optimizer: Adam, about: Mapping[str, Any]) -> Path:
    """Write the state after `step` steps into `directory`, then drop all but the newest two. Returns its path."""
    path = directory / f"step-{step:08d}.checkpoint"
    tensors = {f"adam.{name}": tensor for name, tensor in optimizer.state().items()}
    tensors |= {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_tensors(path, tensors, {"step": step, **about}, "checkpoint")
    for old in sorted(directory.glob("step-*.checkpoint"))[:-KEPT]:
        old.unlink()
    return path


def resume(directory: Path, model: nn.Module, optimizer: Adam, about: Mapping[str, Any]) -> int:
    """Put the newest whole checkpoint of `directory` into `model` and `optimizer`; returns its step, else 0.

    Damaged ones, newer than that, get a name of their own, so that they are not among those that are kept; what a
    killed run had half written is deleted.

    Raises:
        UserError: the run there was made with another config or corpus, or no checkpoint of several is whole.
    """
    for unfinished in directory.glob(".step-*.part"):
        unfinished.unlink()
    paths = sorted(directory.glob("step-*.checkpoint"), reverse=True)
    for n_damaged, path in enumerate(paths):
        try:
            tensors, header = load_tensors(path, "checkpoint")
        except UserError as error:
            log.warning("%s; trying the one before", error)
            continue
        _check_same(path, about, header)
        model.load_state_dict(_named("model.", tensors))
        optimizer.load_state(_named("adam.", tensors), header["step"])
        for damaged in paths[:n_damaged]:
            damaged.rename(damaged.with_suffix(".damaged"))
        return header["step"]
    if paths:
        raise UserError(f"no checkpoint in {directory} is whole; delete the directory to start again")
    return 0


def _check_same(path: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise UserError(
                f"{path} was made with {name} {_difference(theirs.get(name), value)}; "
                "go on with the same settings, or train into another directory"
            )


def _difference(old: Any, new: Any) -> str:
    """What differs between two values, by key where they are mappings."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return ", ".join(f"{key}: {_difference(old.get(key), new.get(key))}" for key in keys)
    return f"{old!r}, now {new!r}"


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
