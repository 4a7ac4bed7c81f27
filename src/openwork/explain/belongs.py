"""Whether what is given belongs together, and can be told."""

from __future__ import annotations

from openwork.artifacts import Circuit
from openwork.corpus import Corpus
from openwork.errors import UserError
from openwork.model import FINAL_SITE, Transformer
from openwork.tasks import Task


def check_circuit(circuit: Circuit, task: Task) -> None:
    """Raise a `UserError` if the circuit is of another task, or replaces channels of the final stream."""
    if task.hash != circuit.task_hash:
        raise UserError(
            f"the circuit is of task {circuit.task} ({circuit.task_hash[:12]}), not of {task.name} ({task.hash[:12]}); "
            "give its own task"
        )
    if FINAL_SITE in circuit.ablation_values:  # released circuits may
        raise UserError(
            f"the circuit replaces channels of {FINAL_SITE}, which cannot be told as text; show it with openwork view, "
            f"or import it with means that lack {FINAL_SITE}"
        )


def check_corpus(model: Transformer, corpus: Corpus) -> None:
    """Raise a `UserError` if the corpus has another tokenizer than the model."""
    if model.tokenizer is not None and corpus.tokenizer.hash != model.tokenizer.hash:
        raise UserError(
            f"the corpus's tokenizer is {corpus.tokenizer.hash[:12]}, the model's is {model.tokenizer.hash[:12]}; "
            "give the model's own corpus"
        )
