"""Pruning: from a model and a task to a circuit (paper, 2.2 and A.5).

learn one gate per node  ->  rank by tau  ->  fewest that reach the target  ->  close what is not needed  ->  calibrate
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import Ablation, Circuit
from openwork.errors import UserError
from openwork.model import Transformer, node_name, node_sites
from openwork.pruning.discretise import calibrate, clean_up, fewest
from openwork.pruning.edges import count_possible_edges, edges_between
from openwork.pruning.gates import Gates, StepGate
from openwork.tasks import Pairs, Task

Report = Callable[[dict[str, Any]], None]
LARGEST_SEED = 2**32 - 1
"""The seeds of pairs and gates are counted up from it and must stay below PyTorch's 2**63."""


@dataclass(frozen=True)
class PruneConfig:
    """How a circuit is looked for. The defaults need no tuning per model or task."""

    target: float = 0.15
    """Task loss that the circuit must reach, in nats (paper: 0.15)."""
    ablation: Ablation = "mean"
    """What a node outside the circuit is set to: its mean over the corpus, or zero."""
    steps: int = 400
    pairs: int = 48
    """Pairs per step."""
    learning_rate: float = 1e-2
    k_coef: float = 5e-4
    """Price of a node, in nats."""
    init_bias: float = 0.1
    init_noise: float = 0.01
    """The gates start at init_bias + init_noise * normal."""
    weight_decay: float = 1e-3
    beta2: float = 0.95
    warmup: float = 0.05
    """Fraction of the steps over which the learning rate rises."""
    temperature: float = 1.0
    """Of the sigmoid whose derivative stands for the step's."""
    fixed_pairs: int = 128
    """Training pairs on which gates are ranked, counted and cleaned up."""
    validation_pairs: int = 256
    """Validation pairs of the stated loss."""

    def __post_init__(self) -> None:
        for name in ("target", "steps", "pairs", "learning_rate", "temperature", "fixed_pairs", "validation_pairs"):
            if not getattr(self, name) > 0:
                raise UserError(f"prune.{name} is {getattr(self, name)}; it must be greater than 0")
        for name in ("k_coef", "init_noise", "weight_decay", "warmup"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"prune.{name} is {getattr(self, name)}; it must be at least 0 and finite")
        for name in ("target", "learning_rate", "temperature", "init_bias"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"prune.{name} is {getattr(self, name)}; it must be finite")
        if not (0 <= self.beta2 < 1 and self.warmup <= 1):
            raise UserError(f"prune.beta2 is {self.beta2} and prune.warmup {self.warmup}; they must lie in [0, 1)")


def prune(
    model: Transformer,
    task: Task,
    *,
    seed: int = 0,
    seeds: int = 1,
    config: PruneConfig | None = None,
    report: Report = lambda line: None,
) -> Circuit:
    """The smallest circuit found for `task` in `model` over `seeds` searches, the first with `seed`.

    A circuit that reaches the target counts before one that does not, then the one with fewer nodes; what the others
    reached stands in ``circuit.tried``. Look at ``circuit.reached``: if no seed reaches the target, the nearest one is
    returned. `report` gets progress: the phase, its step, the loss and the size.

    Raises:
        UserError: mean ablation and the model has no means, or no seed or search that can be.
    """
    config = config or PruneConfig()
    if seeds < 1:
        raise UserError(f"seeds is {seeds}; at least 1 search is needed")
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"seed is {seed}; it must lie between 0 and {LARGEST_SEED}")
    values = ablation_values(model, config.ablation)
    requires_grad = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        found = [_prune_once(model, task, values, config, seed + i, report) for i in range(seeds)]
    finally:
        for parameter, required in zip(model.parameters(), requires_grad, strict=True):
            parameter.requires_grad_(required)
    best = min(found, key=lambda c: (not c.reached, len(c.nodes) if c.reached else c.losses["circuit"]))
    tried = tuple(
        {
            "seed": c.seed,
            "reached": c.reached,
            "loss": c.losses["circuit"],
            "nodes": len(c.nodes),
            "edges": len(c.edges),
        }
        for c in found
    )
    return Circuit(**{**vars(best), "tried": tried})


def ablation_values(model: Transformer, ablation: Ablation) -> dict[str, Tensor]:
    """For each node site, the values (width,) of ablated nodes."""
    if ablation == "zero":
        return {site: torch.zeros(width) for site, width in node_sites(model.config).items()}
    if not model.means:
        raise UserError(
            "the model has no mean activations for mean ablation; give --corpus so that they can be computed, "
            "or use --ablation zero"
        )
    return dict(model.means)


def _prune_once(
    model: Transformer, task: Task, values: dict[str, Tensor], config: PruneConfig, seed: int, report: Report
) -> Circuit:
    gates = Gates.of(model.config)
    tau = learn_gates(model, task, gates, values, config, seed, report)
    ranking = tau.argsort(descending=True, stable=True)
    fixed = task.pairs("train", config.fixed_pairs, seed=1_000_000 + seed)
    judge = Judge(model, gates, values, fixed)

    def loss_of(numbers: Tensor) -> float:
        loss = judge.loss(numbers)
        report({"phase": "clean up", "seed": seed, "loss": loss, "nodes": int(judge.nodes_per_gate[numbers].sum())})
        return loss

    kept, aim = ranking, config.target
    for _ in range(3):
        needed = fewest(ranking, loss_of, aim)
        if needed is None:
            break
        kept = clean_up(needed, loss_of, aim)
        circuit = _circuit(model, task, gates, values, kept, config, seed, fixed)
        if circuit.reached:
            return circuit
        aim *= 0.8
    open_gates = (tau > 0).nonzero().squeeze(1) if kept is ranking else kept
    return _circuit(model, task, gates, values, open_gates, config, seed, fixed)


def learn_gates(
    model: Transformer,
    task: Task,
    gates: Gates,
    values: dict[str, Tensor],
    config: PruneConfig,
    seed: int,
    report: Report,
) -> Tensor:
    """The gates' tau (n,) that minimise task loss + k_coef * open nodes, on fresh training pairs at every step."""
    generator = torch.Generator().manual_seed(seed)
    start = config.init_bias + config.init_noise * torch.randn(gates.n, generator=generator)
    tau = start.requires_grad_()
    price = config.k_coef * gates.nodes_per_gate()
    adam = torch.optim.AdamW([tau], config.learning_rate, betas=(0.9, config.beta2), weight_decay=config.weight_decay)
    for step in range(config.steps):
        progress = (step + 1) / config.steps
        adam.param_groups[0]["lr"] = (
            config.learning_rate * min(1, progress / max(config.warmup, 1e-9)) * (1 - step / config.steps)
        )
        pairs = task.pairs("train", config.pairs, seed=seed * config.steps + step)
        gate = StepGate.apply(tau, config.temperature)
        loss = pairs.loss(model.run(pairs.flat, edit=gates.edits(gate, values))[0])
        adam.zero_grad()
        (loss + (price * gate).sum()).backward()
        torch.nn.utils.clip_grad_norm_([tau], 1.0)
        adam.step()
        with torch.no_grad():
            tau.clamp_(-1, 1)
        nodes = int((price.detach() * gate.detach()).sum() / config.k_coef) if config.k_coef else 0
        report(
            {
                "phase": "learn gates",
                "seed": seed,
                "step": step + 1,
                "n_steps": config.steps,
                "loss": loss.item(),
                "nodes": nodes,
            }
        )
    return tau.detach()


class Judge:
    """The loss of any set of gates on fixed pairs."""

    def __init__(self, model: Transformer, gates: Gates, values: dict[str, Tensor], pairs: Pairs) -> None:
        self.model, self.gates, self.values, self.pairs = model, gates, values, pairs
        self.nodes_per_gate = gates.nodes_per_gate()

    @torch.no_grad()
    def differences(self, numbers: Tensor) -> Tensor:
        """Logit differences A - B (pair, 2) with only the gates `numbers` open."""
        gate = torch.zeros(self.gates.n)
        gate[numbers] = 1
        logits = self.model.run(self.pairs.flat, edit=self.gates.edits(gate, self.values))[0]
        return self.pairs.differences(logits)

    def loss(self, numbers: Tensor) -> float:
        """Loss in nats, before calibration."""
        return float(self.pairs.losses(self.differences(numbers)))


def _circuit(
    model: Transformer,
    task: Task,
    gates: Gates,
    values: dict[str, Tensor],
    numbers: Tensor,
    config: PruneConfig,
    seed: int,
    fixed: Pairs,
) -> Circuit:
    """The circuit of the gates `numbers`: calibrated on the `fixed` pairs, its stated loss on the validation pairs."""
    is_open = torch.zeros(gates.n, dtype=torch.bool)
    is_open[numbers] = True
    kept = gates.kept(is_open)
    scale, shift = calibrate(Judge(model, gates, values, fixed).differences(numbers))
    validation = task.pairs("validation", config.validation_pairs)
    differences = Judge(model, gates, values, validation).differences(numbers)
    with torch.no_grad():
        unpruned = validation.loss(model(validation.flat))
    losses = {
        "unpruned": float(unpruned),
        "circuit": float(validation.losses(scale * differences + shift)),
        "circuit_uncalibrated": float(validation.losses(differences)),
    }
    return Circuit(
        model_hash=model.hash,
        task=task.name,
        task_hash=task.hash,
        ablation=config.ablation,
        nodes=tuple(node_name(site, i, model.config.d_head) for site, index in kept.items() for i in index.tolist()),
        edges=edges_between(model, kept),
        kept=kept,
        ablation_values=values,
        scale=scale,
        shift=shift,
        seed=seed,
        target=config.target,
        losses=losses,
        n_pairs=config.validation_pairs,
        n_possible_nodes=sum(node_sites(model.config).values()),
        n_possible_edges=count_possible_edges(model),
        model=model,
    )
