"""Checkpoints: all that a run needs to go on as if it had never stopped.

The data of a step is a function of its number and every random draw has its own seed, so the state is the step, the
weights and Adam's moments. Two checkpoints are kept; a damaged newest one is named and the older one is used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openwork.artifacts import load_tensors, save_tensors
from openwork.errors import UserError

KEPT = 2
log = logging.getLogger(__name__)


def save_checkpoint(
    directory: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, about: Mapping[str, Any]
) -> Path:
    """Write the state after `step` steps into `directory`, then drop all but the newest two. Returns its path."""
    path = directory / f"step-{step:08d}.checkpoint"
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict(keep_vars=True).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
    save_tensors(path, tensors, {"step": step, **about}, "checkpoint")
    for old in sorted(directory.glob("step-*.checkpoint"))[:-KEPT]:
        old.unlink()
    return path


def resume(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: Mapping[str, Any]) -> int:
    """Put the newest whole checkpoint of `directory` into `model` and `optimizer`; returns its step, else 0.

    Raises:
        UserError: the run there was made with another config or corpus, or no checkpoint of several is whole.
    """
    paths = sorted(directory.glob("step-*.checkpoint"), reverse=True)
    for path in paths:
        try:
            tensors, header = load_tensors(path, "checkpoint")
        except UserError as error:
            log.warning("%s; trying the one before", error)
            continue
        _check_same(path, about, header)
        _restore(tensors, model, optimizer)
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


def _restore(tensors: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    for name, parameter in model.named_parameters():
        state = {
            key: tensors[f"adam.{key}.{name}"].clone()
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"adam.{key}.{name}" in tensors
        }
        if state:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }
