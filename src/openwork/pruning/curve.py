"""Size against loss: one circuit for each of several targets, and the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from openwork.artifacts import Circuit
from openwork.files import save_figure
from openwork.model import Transformer
from openwork.pruning.config import PruneConfig
from openwork.pruning.problem import Report
from openwork.pruning.search import prune, rank
from openwork.tasks import Task


def prune_to_targets(
    model: Transformer,
    task: Task,
    targets: Sequence[float],
    *,
    seed: int = 0,
    seeds: int = 1,
    config: PruneConfig | None = None,
    report: Report = lambda line: None,
) -> list[Circuit]:
    """The smallest circuit found for each of `targets` in nats, each once, the lowest first (see `openwork.prune`).

    A circuit that reaches a target reaches the higher ones too, so none is larger than one for a lower target.
    """
    found: list[Circuit] = []
    every = [replace(config or PruneConfig(), target=target) for target in sorted(set(targets))]  # bad ones end here
    for wanted in every:
        circuit = prune(model, task, seed=seed, seeds=seeds, config=wanted, report=report)
        before = [replace(found[-1], target=wanted.target)] if found else []
        found.append(min([circuit, *before], key=rank))
    return found


def draw_curve(circuits: Sequence[Circuit], path: Path) -> None:
    """Nodes and edges of `circuits` of one task against their loss, as a PNG; a hollow mark missed its target."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.add_subplot()
    loss = [circuit.losses["circuit"] for circuit in circuits]
    for name in ("edges", "nodes"):
        size = [max(1, len(getattr(circuit, name))) for circuit in circuits]  # no edge is drawn as one
        (line,) = axes.plot(loss, size, label=name)
        for circuit, x, y in zip(circuits, loss, size, strict=True):
            axes.plot(x, y, "o", color=line.get_color(), fillstyle="full" if circuit.reached else "none")
    axes.set(xlabel="loss on validation pairs (nats)", ylabel="size of the circuit", title=circuits[0].task)
    axes.set_yscale("log")
    axes.legend()
    save_figure(figure, path)
