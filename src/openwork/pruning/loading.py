"""A circuit from a file that anyone may have written: whatever it says must hold of its model before it is run."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import torch

from openwork.artifacts import Ablation, Circuit, read_circuit
from openwork.errors import UserError
from openwork.model import FINAL_SITE, Transformer, ablated_sites, circuit_sites, node_name
from openwork.pruning.edges import edges_between


def load_circuit(path: str | Path, model: Transformer) -> Circuit:
    """The circuit in `path`, ready to run on `model`.

    Raises:
        UserError: the file is damaged, the circuit belongs to another model (both hashes are named), or it names nodes,
            edges or values that its model does not have.
    """
    circuit: Circuit | None = None
    try:
        circuit = read_circuit(path, model)
        fault = _fault(circuit, model)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        fault = f"{type(error).__name__}: {error}"
    if circuit is None or fault:
        raise UserError(f"{path} is no circuit of this model ({fault}); prune again")
    return circuit


def _fault(circuit: Circuit, model: Transformer) -> str:
    """What cannot be true of `circuit`, empty if all can."""
    losses = ("unpruned", "circuit", "circuit_uncalibrated")
    widths, names, ablated = circuit_sites(model.config), set(circuit.nodes), ablated_sites(model.config)
    if FINAL_SITE in circuit.ablation_values:
        ablated[FINAL_SITE] = widths[FINAL_SITE]
    else:  # as in every circuit that was found here
        del widths[FINAL_SITE]
    for name in ("task", "task_hash"):
        if not isinstance(getattr(circuit, name), str):
            return f"its {name} is {getattr(circuit, name)!r}"
    numbers = {name: getattr(circuit, name) for name in ("scale", "shift", "target", "seed", "n_pairs")}
    for name, value in {**numbers, **{f"{key} loss": circuit.losses[key] for key in losses}}.items():
        if not _is_number(value):
            return f"its {name} is {value!r}"
    if circuit.ablation not in get_args(Ablation):
        return f"its ablation is {circuit.ablation!r}"
    if {site: tuple(values.shape) for site, values in circuit.ablation_values.items()} != {
        site: (width,) for site, width in ablated.items()
    }:
        return "its ablation values are not of the sites that they must be of; circuits of earlier versions lack attn.y"
    if not all(values.isfinite().all() for values in circuit.ablation_values.values()):
        return "it has ablation values that are not finite"
    for site, index in circuit.kept.items():
        if index.dtype != torch.int64 or index.dim() != 1 or site not in widths or not (index.diff() > 0).all():
            return f"it keeps {list(index.shape)} {index.dtype} at {site!r}, or some twice"
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < widths[site]:
            return f"it keeps node {int(index.max())} of {site}, which has {widths[site]}"
    kept = {node_name(site, i, model.config.d_head) for site, index in circuit.kept.items() for i in index.tolist()}
    if kept != names:
        return f"it names other nodes than it keeps, such as {min(kept ^ names, key=str)!r}"
    possible = set(edges_between(model, circuit.kept))
    wrong = [edge for edge, n in Counter(circuit.edges).items() if edge not in possible or n > 1]
    return f"it has the edge {tuple(wrong[0])}, which is no weight of the model's, or has it twice" if wrong else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
