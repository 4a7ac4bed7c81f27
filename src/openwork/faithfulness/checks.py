"""The checks: each asks one question of a circuit, and of random ones of its size (paper, 3.1 and E).

Losses are nats per pair member; a coin gives ln 2 = 0.69.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.artifacts import Check, Circuit
from openwork.faithfulness.controls import Run, run
from openwork.tasks import Pairs

HELD_OUT_BOUND = 0.25
BROKEN = 0.5
"""Loss in nats from which a task counts as broken."""


def sufficiency(ours: Run, random: list[Run]) -> Check:
    """Does the circuit alone do the task on validation pairs, as far as so many can tell?"""
    circuit = ours.circuit
    return _check(
        "sufficiency",
        f"with every other node {circuit.ablation}-ablated, is the loss at most the target?",
        ours,
        random,
        at_most=circuit.target,
        standard_error=ours.standard_error,
    )


def held_out(ours: Run, random: list[Run], pairs: Pairs) -> Check:
    """Does the circuit alone do the task on `pairs` of templates that it was not found with?"""
    return _check(
        "held-out templates",
        "does it also do the task in code of other shapes?",
        run(ours.circuit, pairs),
        [run(control.circuit, pairs) for control in random],
        at_most=HELD_OUT_BOUND,
    )


def other_ablation(ours: Run, random: list[Run], values: dict[str, Tensor], name: str) -> Check:
    """Does the circuit, calibrated anew, do the task when the others are ablated the other way (zero for mean)?"""
    swapped, *controls = (
        run(replace(one.circuit, ablation_values=values), one.pairs).calibrated() for one in (ours, *random)
    )
    return _check(
        f"sufficiency, {name} ablation",
        f"and with every other node {name}-ablated?",
        swapped,
        controls,
        at_most=HELD_OUT_BOUND,
    )


def necessity(ours: Run, random: list[Circuit]) -> Check:
    """Does the model fail when only the circuit is ablated, and not when as many random nodes are?

    The median of the random ones decides: one of them may hit a node of the circuit by chance, and then breaks the task
    too.
    """
    value, *losses = (loss_without(circuit, ours.pairs) for circuit in (ours.circuit, *random))
    return Check(
        name="necessity",
        question=f"with only the circuit {ours.circuit.ablation}-ablated, does the model fail?",
        value=value,
        unit="nats",
        control=median(losses),
        control_name=f"median of {len(losses)} random",
        threshold=f">= {BROKEN}, random below",
        passed=value >= BROKEN > median(losses),
        detail={"random": losses, "random_worst": max(losses)},
    )


@torch.no_grad()
def loss_without(circuit: Circuit, pairs: Pairs) -> float:
    """Loss of the model with only the circuit ablated."""
    assert circuit.model is not None
    return float(pairs.loss(circuit.model.run(pairs.flat, edit=circuit.edits(complement=True), due=pairs.due)[0]))


def divergence(ours: Run, random: list[Run]) -> Check:
    """Is the circuit's next-token distribution nearer to the full model's than random circuits' are?"""
    assert ours.circuit.model is not None
    with torch.no_grad():
        full = ours.circuit.model.run(ours.pairs.flat, due=ours.pairs.due)[0].log_softmax(-1)
    value, *losses = (_kl(full, one) for one in (ours, *random))
    return Check(
        name="KL to the full model",
        question="over all next tokens, is it nearer to the full model than random circuits are?",
        value=value,
        unit="nats",
        control=min(losses),
        control_name=f"best of {len(losses)} random",
        threshold="< random",
        passed=value < min(losses),
        detail={"random": losses, "random_median": median(losses)},
    )


def _kl(full: Tensor, one: Run) -> float:
    """Mean KL(full model, circuit) in nats where the answer is due; `full` are log probabilities."""
    kl = F.kl_div(one.logits.log_softmax(-1), full, log_target=True, reduction="none")
    return float(kl.sum(-1).mean())


def _check(
    name: str, question: str, ours: Run, random: list[Run], at_most: float, standard_error: float = 0.0
) -> Check:
    """Passed if the loss is at most `at_most`, two standard errors allowed, and that of no control below `BROKEN`."""
    losses = [control.loss for control in random]
    return Check(
        name=name,
        question=question,
        value=ours.loss,
        unit="nats",
        control=min(losses),
        control_name=f"best of {len(losses)} random",
        threshold=f"<= {at_most}{' + 2 s.e.' if standard_error else ''}, random >= {BROKEN}",
        passed=ours.loss <= at_most + 2 * standard_error and min(losses) >= BROKEN,
        detail={
            "random": losses,
            "random_median": median(losses),
            "standard_error": standard_error,
            "templates": _by_template(ours),
        },
    )


@torch.no_grad()
def _by_template(ours: Run) -> list[dict[str, Any]]:
    """The loss on the pairs of each template, and the whole model's, in nats: where the circuit does the task worst
    comes first. Empty where pairs were written down."""
    pairs = ours.pairs
    if not pairs.templates:
        return []
    assert ours.circuit.model is not None
    circuit = ours.losses
    model = Pairs.losses(pairs.differences(ours.circuit.model.run(pairs.flat, due=pairs.due)[0])[:, None])
    found = []
    for template in dict.fromkeys(pairs.templates):
        on = torch.tensor([other == template for other in pairs.templates])
        losses = {"circuit": float(circuit[on].mean()), "model": float(model[on].mean())}
        found.append({**losses, "pairs": int(on.sum()), "template": template})
    return sorted(found, key=lambda row: -row["circuit"])
