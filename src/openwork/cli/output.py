"""What commands print, and write as JSON."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from openwork.files import write_atomically

if TYPE_CHECKING:
    from openwork.artifacts import Card

WORST = 3
"""Templates that are printed of a check that said no."""


class _Console(Console):
    """Goes on without a word once its reader has gone: what a command still has to write is not lost."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


console = _Console(markup=False)
"""What is printed is text: a path or a task may have brackets in it."""


def circuit_numbers(circuit: Any) -> dict[str, Any]:
    """What is reported of a circuit."""
    return {
        "task": circuit.task,
        "reached": circuit.reached,
        "target": circuit.target,
        "loss_unpruned": circuit.losses["unpruned"],
        "loss_circuit": circuit.losses["circuit"],
        "loss_circuit_uncalibrated": circuit.losses["circuit_uncalibrated"],
        "calibration_scale": circuit.scale,
        "nodes": len(circuit.nodes),
        "possible_nodes": circuit.n_possible_nodes,
        "edges": len(circuit.edges),
        "possible_edges": circuit.n_possible_edges,
        "ablation": circuit.ablation,
        "seed": circuit.seed,
        "tried": list(circuit.tried),
    }


def card_rows(card: Card) -> list[dict[str, Any]]:
    """The card as rows of a table."""
    return [
        {
            "check": check.name,
            "value": check.value,
            "control": "" if check.control is None else check.control,
            "which": check.control_name,
            "bound": check.threshold,
            "passed": "yes" if check.passed else "NO",
        }
        for check in card.checks
    ]


def where_it_fails(card: Card) -> dict[str, list[dict[str, Any]]]:
    """For each check that said no and knows of templates, rows of those that the circuit does worst."""
    return {
        check.name: [row | {"template": repr(row["template"])} for row in check.detail["templates"][:WORST]]
        for check in card.checks
        if not check.passed and check.detail.get("templates")
    }


def print_table(title: str, numbers: dict[str, Any]) -> None:
    table = Table("what", "value", title=title)
    for name, value in numbers.items():
        table.add_row(name.replace("_", " "), _text(value))
    console.print(table)


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """Rows as a table, without the columns in which no row has anything: 80 characters are few."""
    names = [name for i, name in enumerate(rows[0]) if i == 0 or any(row[name] != "" for row in rows)]
    table = Table(*(Column(name, overflow="fold", no_wrap=name == names[0]) for name in names), title=title)
    for row in rows:
        table.add_row(*(_text(row[name]) for name in names))
    console.print(table)


def print_pairs(rows: list[dict[str, Any]]) -> None:
    """Each task with its example, the members beside each other."""
    for row in rows:
        console.print(Text.assemble((row["task"], "bold"), ": ", row["asks to"]))
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        table.add_row(*(_harmless(row[member]) for member in ("member A", "member B")))
        console.print(table)
        console.print()


def _harmless(text: str) -> str:
    """`text` with what is neither printable nor a line's end as its escape: a file must not command the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 0.1 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write_json(path: Path | None, numbers: dict[str, Any]) -> None:
    """Write `numbers`; JSON has no infinity and no NaN, so that these are null."""
    if path is not None:
        write_atomically(path, json.dumps(_finite(numbers), indent=2, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
