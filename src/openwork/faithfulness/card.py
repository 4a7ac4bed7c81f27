"""The card: every check of a circuit, beside its controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from openwork.artifacts import Card, Circuit
from openwork.errors import UserError
from openwork.faithfulness import checks
from openwork.faithfulness.controls import N_RANDOM, random_circuits, random_nodes, run
from openwork.model import Transformer
from openwork.pruning import ablation_values
from openwork.tasks import Task

FRESH = 1
"""Seed of validation pairs that no search has seen: `Circuit.loss` and the search have those of seed 0."""


def verify(
    circuit: Circuit,
    task: Task,
    *,
    n_random: int = N_RANDOM,
    n_pairs: int = 256,
    seed: int = 0,
    report: Callable[[str], None] = lambda check: None,
) -> Card:
    """Ask of `circuit` whether it is sufficient and necessary, beside `n_random` random circuits and sets of nodes.

    The validation pairs are others than those by which the search decided, each once, unless the task has no others,
    as when a user wrote few down: the card says so. Random circuits are calibrated on them, which favours them.
    `report` gets each check's name as it starts.

    Raises:
        UserError: the circuit has no model, `task` is not its own, or no random circuit is asked for.
    """
    if n_random < 1:
        raise UserError(f"{n_random} random circuits are no control; ask for at least 1")
    if circuit.model is None:
        raise UserError("this circuit has no model to run on; open it with load_circuit(path, model)")
    circuit.check_task(task)
    model = cast(Transformer, circuit.model)
    seen, held_out = task.pairs("validation", circuit.n_pairs), task.pairs("held_out", n_pairs).distinct()
    validation = task.pairs("validation", n_pairs, seed=FRESH).distinct(but=seen)
    fresh = validation.prompts[0] not in seen.prompts
    other = "zero" if circuit.ablation == "mean" else "mean"
    report("random circuits")
    ours = run(circuit, validation)
    controls = random_circuits(circuit, n_random, seed, answers=validation.right.unique())
    random = [run(control, validation).calibrated() for control in controls]
    asked = {
        "sufficiency": lambda: checks.sufficiency(ours, random, fresh),
        "held-out templates": lambda: checks.held_out(ours, random, held_out),
        "necessity": lambda: checks.necessity(ours, random_nodes(circuit, n_random, seed)),
        "KL to the full model": lambda: checks.divergence(ours, random),
    }
    if other == "zero" or model.means:
        values = {**circuit.ablation_values, **ablation_values(model, other)}  # the final stream keeps its own
        asked[f"{other} ablation"] = lambda: checks.other_ablation(ours, random, values, other)
    answered = []
    for name, check in asked.items():
        report(name)
        answered.append(check())
    return Card(
        model_hash=circuit.model_hash,
        task=circuit.task,
        task_hash=circuit.task_hash,
        n_nodes=len(circuit.nodes),
        n_edges=len(circuit.edges),
        seed=seed,
        checks=tuple(answered),
    )
