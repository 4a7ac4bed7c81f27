"""Whether a circuit is of the task that is given, and can be told."""

from __future__ import annotations

from openwork.artifacts import Circuit
from openwork.errors import UserError
from openwork.model import FINAL_SITE
from openwork.tasks import Task


def check_circuit(circuit: Circuit, task: Task) -> None:
    """Raise a `UserError` if the circuit is of another task, or replaces channels of the final stream."""
    circuit.check_task(task)
    if FINAL_SITE in circuit.ablation_values:  # released circuits may
        raise UserError(
            f"the circuit replaces channels of {FINAL_SITE}, which cannot be told as text; show it with openwork view, "
            f"or import it with means that lack {FINAL_SITE}"
        )
