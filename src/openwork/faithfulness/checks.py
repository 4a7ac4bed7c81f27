"""The checks: each asks one question of a circuit, and of random circuits of its size (paper, 3.1 and E).

Losses are nats per pair member; a coin gives ln 2 = 0.69.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.artifacts import Check, Circuit
from openwork.faithfulness.controls import calibrated
from openwork.tasks import Pairs

HELD_OUT_BOUND = 0.25
BROKEN = 0.5
"""Loss in nats from which a task counts as broken."""


@torch.no_grad()
def circuit_loss(circuit: Circuit, pairs: Pairs) -> float:
    """Calibrated loss with everything but the circuit ablated."""
    return float(pairs.loss(circuit(pairs.flat), circuit.scale, circuit.shift))


@torch.no_grad()
def loss_without(circuit: Circuit, pairs: Pairs) -> float:
    """Loss of the model with only the circuit ablated."""
    assert circuit.model is not None
    return float(pairs.loss(circuit.model.run(pairs.flat, edit=circuit.edits(complement=True))[0]))


def sufficiency(circuit: Circuit, random: list[Circuit], pairs: Pairs) -> Check:
    """Does the circuit alone do the task on validation pairs?"""
    losses = [circuit_loss(control, pairs) for control in random]
    return _check(
        "sufficiency",
        f"with every other node {circuit.ablation}-ablated, is the loss at most the target?",
        circuit_loss(circuit, pairs),
        losses,
        at_most=circuit.target,
    )


def held_out(circuit: Circuit, random: list[Circuit], pairs: Pairs) -> Check:
    """Does the circuit alone do the task on templates that it was not found with?"""
    losses = [circuit_loss(control, pairs) for control in random]
    return _check(
        "held-out templates",
        "does it also do the task in code of other shapes?",
        circuit_loss(circuit, pairs),
        losses,
        at_most=HELD_OUT_BOUND,
    )


def other_ablation(
    circuit: Circuit, random: list[Circuit], pairs: Pairs, values: dict[str, Tensor], name: str
) -> Check:
    """Does the circuit, calibrated anew, do the task when the others are ablated the other way (zero for mean)?"""
    swapped = calibrated(replace(circuit, ablation_values=values), pairs)
    controls = [calibrated(replace(control, ablation_values=values), pairs) for control in random]
    return _check(
        f"sufficiency, {name} ablation",
        f"and with every other node {name}-ablated?",
        circuit_loss(swapped, pairs),
        [circuit_loss(control, pairs) for control in controls],
        at_most=HELD_OUT_BOUND,
    )


def necessity(circuit: Circuit, random: list[Circuit], pairs: Pairs) -> Check:
    """Does the model fail when only the circuit is ablated, and not when as many random nodes are?

    The median of the random ones decides: one of them may hit a node of the circuit by chance, and then breaks the task
    too.
    """
    value = loss_without(circuit, pairs)
    losses = [loss_without(control, pairs) for control in random]
    return Check(
        name="necessity",
        question=f"with only the circuit {circuit.ablation}-ablated, does the model fail?",
        value=value,
        unit="nats",
        control=median(losses),
        control_name=f"median of {len(losses)} random",
        threshold=f">= {BROKEN}, random below",
        passed=value >= BROKEN > median(losses),
        detail={"random": losses, "random_worst": max(losses)},
    )


def divergence(circuit: Circuit, random: list[Circuit], pairs: Pairs) -> Check:
    """Is the circuit's next-token distribution nearer to the full model's than random circuits' are?"""
    assert circuit.model is not None
    with torch.no_grad():
        full = pairs.at_answer(circuit.model.run(pairs.flat)[0]).log_softmax(-1)
        value = _kl(full, circuit, pairs)
        losses = [_kl(full, control, pairs) for control in random]
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


def _kl(full: Tensor, circuit: Circuit, pairs: Pairs) -> float:
    """Mean KL(full model, circuit) in nats where the answer is due; `full` are log probabilities."""
    logits = pairs.at_answer(circuit(pairs.flat))
    return float(F.kl_div(logits.log_softmax(-1), full, log_target=True, reduction="none").sum(-1).mean())


def _check(name: str, question: str, value: float, random: list[float], at_most: float) -> Check:
    return Check(
        name=name,
        question=question,
        value=value,
        unit="nats",
        control=min(random),
        control_name=f"best of {len(random)} random",
        threshold=f"<= {at_most}, random >= {BROKEN}",
        passed=value <= at_most and min(random) >= BROKEN,
        detail={"random": random, "random_median": median(random)},
    )
