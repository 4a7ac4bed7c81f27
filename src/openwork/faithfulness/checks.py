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
from openwork.pruning.calibration import calibrated_losses
from openwork.tasks import Pairs

HELD_OUT_BOUND = 0.25
BROKEN = 0.5
"""Loss in nats from which a task counts as broken."""


def sufficiency(ours: Run, random: list[Run], fresh: bool = True) -> Check:
    """Does the circuit alone do the task on validation pairs, `fresh` or seen by its search, as far as so many tell?"""
    circuit, seen = ours.circuit, "" if fresh else " (on pairs that its search has seen: the task has no others)"
    return _check(
        "sufficiency",
        f"with every other node {circuit.ablation}-ablated, is the loss at most the target{seen}?",
        ours,
        random,
        at_most=circuit.target,
        standard_error=ours.standard_error,
    )


def held_out(ours: Run, random: list[Run], pairs: Pairs) -> Check:
    """Does the circuit alone do the task on `pairs` of templates that it was not found with?"""
    return _check(
        "held-out templates",
        "does it also do the task in code of other shapes?" if pairs.templates else "does it also do pairs held out?",
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
    """Is the answer lost to the model when only the circuit is ablated, and not when as many random nodes are?

    Scale and shift are calibrated in each case: an ablation that only shifts all answers alike has not lost them. Of
    the random ones the median decides: one may hit a node of the circuit by chance, and then breaks the task too.
    """
    without = [differences_without(circuit, ours.pairs) for circuit in (ours.circuit, *random)]
    value, *losses = calibrated_losses(torch.stack(without)).tolist()
    return Check(
        name="necessity",
        question=f"with only the circuit {ours.circuit.ablation}-ablated, does the model fail, however calibrated?",
        value=value,
        unit="nats",
        control=median(losses),
        control_name=f"median of {len(losses)} random",
        threshold=f">= {BROKEN}, random below",
        passed=value >= BROKEN > median(losses),
        detail={"random": losses, "random_worst": max(losses), "uncalibrated": float(Pairs.losses(without[0]))},
    )


@torch.no_grad()
def differences_without(circuit: Circuit, pairs: Pairs) -> Tensor:
    """`Pairs.differences` (n, 2) of the model with only the circuit ablated."""
    assert circuit.model is not None
    return pairs.differences(circuit.model.run(pairs.flat, edit=circuit.edits(complement=True), due=pairs.due)[0])


@torch.no_grad()
def divergence(ours: Run, random: list[Run]) -> Check:
    """Is the circuit's next-token distribution nearer to the full model's than with every node ablated?

    Of random circuits, nearly constants as they are, the nearest of some decides nothing: they are told beside it, as
    is the uniform distribution, which is often nearer than both.
    """
    pairs, model = ours.pairs, ours.circuit.model
    assert model is not None
    full = model.run(pairs.flat, due=pairs.due)[0].log_softmax(-1)
    nothing = run(replace(ours.circuit, nodes=(), edges=(), kept={}), pairs)
    circuit, ablated, *others = (_kl(full, one.logits) for one in (ours, nothing, *random))
    nearer = ablated - circuit
    error = float(nearer.std() / len(nearer) ** 0.5) if len(nearer) > 1 else 0.0
    losses = [float(other.mean()) for other in others]
    return Check(
        name="KL to the full model",
        question="over all next tokens, is it nearer to the full model than with every node ablated?",
        value=float(circuit.mean()),
        unit="nats",
        control=float(ablated.mean()),
        control_name="all ablated",
        threshold="< control - 2 s.e.",
        passed=float(nearer.mean()) > 2 * error,
        detail={
            "random": losses,
            "random_median": median(losses),
            "standard_error": error,
            "uniform": float(_kl(full, torch.zeros_like(full)).mean()),
        },
    )


def _kl(full: Tensor, logits: Tensor) -> Tensor:
    """(n,): KL of the `full` model's log probabilities (2n, d_vocab) to `logits`, in nats, the mean of each pair."""
    kl = F.kl_div(logits.log_softmax(-1), full, log_target=True, reduction="none")
    return kl.sum(-1).unflatten(0, (-1, 2)).mean(-1)


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
