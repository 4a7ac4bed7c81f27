"""What commands print, and write as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from openwork.artifacts import Card, write_atomically

console = Console()


def circuit_numbers(circuit: Any) -> dict[str, Any]:
    """What is reported of a circuit."""
    return {
        "task": circuit.task,
        "reached": circuit.reached,
        "target": circuit.target,
        "loss_unpruned": circuit.losses["unpruned"],
        "loss_circuit": circuit.losses["circuit"],
        "loss_circuit_uncalibrated": circuit.losses["circuit_uncalibrated"],
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


def print_table(title: str, numbers: dict[str, Any]) -> None:
    table = Table("what", "value", title=title)
    for name, value in numbers.items():
        table.add_row(name.replace("_", " "), escape(_text(value)))
    console.print(table)


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*(Column(name, overflow="fold") for name in rows[0]), title=title)
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row.values()))
    console.print(table)


def print_pairs(rows: list[dict[str, Any]]) -> None:
    """Each task with its example, the members beside each other."""
    for row in rows:
        console.print(f"[bold]{escape(row['task'])}[/]: {escape(row['asks to'])}", highlight=False)
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        table.add_row(*(escape(row[member]) for member in ("member A", "member B")))
        console.print(table)
        console.print()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write_json(path: Path | None, numbers: dict[str, Any]) -> None:
    if path is not None:
        write_atomically(path, json.dumps(numbers, indent=2) + "\n")
