"""What tasks there are, and how well a model does each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from openwork import tasks
from openwork.corpus import Tokenizer
from openwork.errors import UserError
from openwork.model import Transformer
from openwork.tasks.files import linted, read_entries
from openwork.tasks.fit import linted_templates, words_for
from openwork.tasks.lint import Linter
from openwork.tasks.templates import SPLITS, Split, Words

PAIRS = 256
SHOWN: tuple[tuple[Split, str], ...] = (("validation", ""), ("held_out", "held-out "))


def list_tasks(names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each of the tasks `names`: its name, what it asks, and an example pair with the answers."""
    rows = []
    for name in names:
        pair = tasks.example(name)
        rows.append(
            {
                "task": name,
                "asks to": tasks.describe(name),
                "member A": _shown(pair, 0),
                "member B": _shown(pair, 1),
            }
        )
    return rows


def _shown(pair: tasks.Candidate, member: int) -> str:
    """The prompt of a member and its answer, which is marked; where the line ends, the end is."""
    return f"{pair.prompts[member]}⟦{pair.answers[member]}⟧".replace("⟦\n⟧", "⟦↵⟧")


@torch.no_grad()
def try_tasks(
    model: Transformer, names: Sequence[str], n: int = PAIRS, report: Callable[[str], None] = lambda name: None
) -> list[dict[str, Any]]:
    """A row for each of the tasks `names`: the unpruned model's loss in nats and its accuracy.

    They are of `n` validation and `n` held-out pairs. A task that does not suit the tokenizer or the context has the
    reason instead; of a task some of whose templates do not, the note says how many. `report` gets the name of each
    task before it is tried.
    """
    rows = []
    for name in names:
        report(name)
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
                differences = pairs.differences(model(pairs.flat, due=pairs.due))
                row[f"{prefix}loss"] = float(pairs.losses(differences))
                row[f"{prefix}accuracy"] = pairs.accuracy(differences)
            if task.left_out:
                row["note"] = f"templates left out: {len(task.left_out)}"
        except UserError as error:
            row["note"] = str(error)
        rows.append(row)
    return rows


def lint_task(name: str, tokenizer: Tokenizer | None) -> list[dict[str, Any]]:
    """A row for each pair of the task `name` (a JSONL file) or each of its templates: where it is, and its fault.

    The fault is empty where there is none.
    """
    if tokenizer is None:
        raise UserError(f"linting {name} needs the model's tokenizer, and this model has none; give another model")
    if name.endswith(".jsonl"):
        entries = linted(read_entries(Path(name)), tokenizer)
        return [{"where": entry.where, "split": entry.split, "fault": entry.fault} for entry in entries]
    rows = []
    for form in tasks.forms_of(name)[1]:
        words: dict[Split, Words] = {split: words_for(name, form, split, tokenizer) for split in SPLITS}
        for template, splits, fault in linted_templates(form, words, Linter(tokenizer)):
            rows.append({"where": repr(template), "split": splits, "fault": fault})
    return rows
