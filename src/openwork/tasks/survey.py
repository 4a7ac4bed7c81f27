"""What tasks there are, and how well a model does each."""

from __future__ import annotations

from typing import Any

import torch

from openwork import tasks
from openwork.errors import UserError
from openwork.model import Transformer
from openwork.tasks.templates import Split

PAIRS = 256
SHOWN: tuple[tuple[Split, str], ...] = (("validation", ""), ("held_out", "held-out "))


def list_tasks() -> list[dict[str, Any]]:
    """A row per task: its name, what it asks, and an example pair with the answers."""
    rows = []
    for name in tasks.names():
        pair = tasks.example(name)
        rows.append(
            {
                "task": name,
                "asks to": tasks.describe(name),
                "member A": f"{pair.prompts[0]}⟦{pair.answers[0]}⟧",
                "member B": f"{pair.prompts[1]}⟦{pair.answers[1]}⟧",
            }
        )
    return rows


@torch.no_grad()
def try_tasks(model: Transformer, n: int = PAIRS) -> list[dict[str, Any]]:
    """A row per task: the unpruned model's loss in nats and accuracy on `n` validation and `n` held-out pairs.

    A task that does not suit the model's tokenizer or context has the reason instead.
    """
    rows = []
    for name in tasks.names():
        row: dict[str, Any] = {
            "task": name,
            "loss": "",
            "accuracy": "",
            "held-out loss": "",
            "held-out accuracy": "",
            "note": "",
        }
        try:
            task = tasks.get(name, model.tokenizer)
            for split, prefix in SHOWN:
                pairs = task.pairs(split, n)
                differences = pairs.differences(model(pairs.flat))
                row[f"{prefix}loss"] = float(pairs.losses(differences))
                row[f"{prefix}accuracy"] = pairs.accuracy(differences)
        except UserError as error:
            row["note"] = str(error)
        rows.append(row)
    return rows
