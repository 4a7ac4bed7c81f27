"""A released circuit (``viz_data.pt``) as a `Circuit` that runs.

The file's ``circuit_data`` maps each site to the indices of its kept nodes. What it stores of losses is of its own
prompts; here the circuit is calibrated and measured anew on a task of ours, so that what it states can be checked.

The release ablates nodes and leaves all weights: ``model.run(tokens, edit=circuit.edits())``, whose loss is stated as
``nodes_ablated``. `Circuit.run` also lets the weights outside the circuit carry constants, which differs where nodes
outside compete for AbsTopK's places, or where a sink takes attention from an ablated value: there they carry the mean
of what the head moves (``attn.y``), or, if the means lack it or there is no sink, that of the value.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import Ablation, Circuit
from openwork.errors import UserError
from openwork.interop.openai.checkpoint import open_checkpoint
from openwork.model import FINAL_SITE, Transformer, ablated_sites, circuit_sites, node_name, node_sites
from openwork.pruning import PruneConfig, ablation_values, count_possible_edges, edges_between
from openwork.pruning.calibration import calibrate
from openwork.tasks import Task

log = logging.getLogger("openwork")
SEED = 0
INDEX_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MEANS = ("mean_activations", "means")
"""Keys under which a file may hold mean activations, site to (width,)."""


def load_circuit(
    path: str | Path,
    model: Transformer,
    task: Task,
    *,
    means: str | Path | None = None,
    ablation: Ablation = "mean",
    config: PruneConfig | None = None,
) -> Circuit:
    """The released circuit in `path`, on the released `model`, measured on `task`.

    Args:
        path: a ``viz_data.pt``.
        means: a ``.pt`` file of mean activations, site to (width,); else those in `path`, else ``model.means``.
        ablation: whether the other nodes take their means or zero.
        config: its target and its numbers of pairs are used.

    Raises:
        UserError: a file is damaged or of another model, or there are no means for mean ablation.
    """
    if means is not None and ablation == "zero":
        raise UserError(f"with zero ablation the means {means} are not used; leave one of the two out")
    config = config or PruneConfig()
    content = open_checkpoint(path, "released circuit")
    data = content.get("circuit_data") if isinstance(content, Mapping) else None
    if not isinstance(data, Mapping):
        raise UserError(f"{path} has no circuit_data, which maps sites to nodes; give the release's viz_data.pt")
    kept = _kept(data, model, path)
    given = _means(content if means is None else open_checkpoint(means, "mean activations"), model, means or path)
    if given and ablation == "mean":
        values = given
    elif means is not None:
        raise UserError(f"{means} has no mean activations, site to values; give the file that has, or leave it out")
    else:
        values = ablation_values(model, ablation)
    moved = {f"{layer}.attn.y": values[f"{layer}.attn.v"] for layer in range(model.config.n_layers)}
    kept, values = _final(kept, moved | values if model.config.sink else values | moved, ablation, model, path)
    circuit = Circuit(
        model_hash=model.hash,
        task=task.name,
        task_hash=task.hash,
        ablation=ablation,
        nodes=tuple(node_name(site, i, model.config.d_head) for site, index in kept.items() for i in index.tolist()),
        edges=edges_between(model, kept),
        kept=kept,
        ablation_values=values,
        scale=1.0,
        shift=0.0,
        seed=SEED,
        target=config.target,
        losses={},
        n_pairs=config.validation_pairs,
        n_possible_nodes=sum(node_sites(model.config).values()),
        n_possible_edges=count_possible_edges(model),
        model=model,
    )
    return _measured(circuit, model, task, config)


@torch.no_grad()
def _measured(circuit: Circuit, model: Transformer, task: Task, config: PruneConfig) -> Circuit:
    """The circuit calibrated on training pairs, with its losses on validation pairs, as a search leaves it."""
    fixed = task.pairs("train", config.fixed_pairs, seed=1_000_000 + SEED)
    differences = fixed.differences(circuit(fixed.flat, fixed.due))
    scale, shift = (float(number) for number in calibrate(differences))
    pairs = task.pairs("validation", config.validation_pairs)
    logits = circuit(pairs.flat, pairs.due)
    losses = {
        "unpruned": float(pairs.loss(model(pairs.flat, due=pairs.due))),
        "circuit": float(pairs.loss(logits, scale, shift)),
        "circuit_uncalibrated": float(pairs.loss(logits)),
        "nodes_ablated": float(pairs.loss(model.run(pairs.flat, edit=circuit.edits(), due=pairs.due)[0])),
    }
    return replace(circuit, scale=scale, shift=shift, losses=losses)


def _final(
    kept: dict[str, Tensor], values: dict[str, Tensor], ablation: Ablation, model: Transformer, path: str | Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The final stream is ablated where the file keeps some of its channels and there are values for the others."""
    if FINAL_SITE in kept and ablation == "zero":
        return kept, {**values, FINAL_SITE: torch.zeros(model.config.d_model)}
    if FINAL_SITE in kept and FINAL_SITE in values:
        return kept, values
    if FINAL_SITE in kept:
        log.warning(
            "%s keeps %d channels of %s, for which there are no means: it is not ablated; give --means that have it",
            *(path, len(kept[FINAL_SITE]), FINAL_SITE),
        )
    without = [{site: x for site, x in part.items() if site != FINAL_SITE} for part in (kept, values)]
    return without[0], without[1]


def _kept(data: Mapping[Any, Any], model: Transformer, path: str | Path) -> dict[str, Tensor]:
    """For each node site, in forward order, the kept indices, ascending; what is no tensor is not about nodes."""
    widths, found = circuit_sites(model.config), {}
    for site, indices in data.items():
        if not isinstance(indices, Tensor | list):
            continue
        try:
            index = torch.as_tensor(indices).reshape(-1)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} keeps no indices at {site!r} ({error}); download it again") from error
        if not len(index):
            continue
        if site not in widths:
            raise UserError(f"{path} keeps nodes of {site!r}, which is no site of this model; load the circuit's model")
        if index.dtype not in INDEX_TYPES or index.min() < 0 or index.max() >= widths[site]:
            raise UserError(f"{path} keeps a node of {site} outside its width {widths[site]}; load the circuit's model")
        found[site] = index.long().unique()
    if not found:
        raise UserError(f"{path} keeps no node in circuit_data; give a circuit that has some")
    return {site: found[site] for site in widths if site in found}


def _means(content: Any, model: Transformer, path: str | Path) -> dict[str, Tensor] | None:
    """The mean activations in `content`, if it has any; all sites or none."""
    widths = circuit_sites(model.config) | ablated_sites(model.config)
    if isinstance(content, Mapping):
        content = next((content[key] for key in MEANS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not isinstance(content.get(next(iter(widths))), Tensor):
        return None
    found = {}
    for site, size in widths.items():
        mean = content.get(site)
        if mean is None and site.endswith((FINAL_SITE, "attn.y")):
            continue
        if not isinstance(mean, Tensor) or mean.numel() != size or not torch.isfinite(mean).all():
            raise UserError(f"{path} has no {size} finite means for {site}; give the means of the circuit's model")
        found[site] = mean.detach().reshape(-1).float()
    return found
