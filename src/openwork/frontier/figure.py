"""The figure of a comparison: edges by task, sparse beside dense."""

from __future__ import annotations

from pathlib import Path

from openwork.files import save_figure
from openwork.frontier.compare import SIDES, Comparison

COLOURS = {"sparse": "#0b6e6e", "dense": "#b4552d"}


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Edges of every circuit, one row a task, as a PNG; a hollow mark missed the target and is in no mean."""
    from matplotlib.figure import Figure

    names = sorted(comparison.tasks, key=lambda task: comparison.of("sparse", task, comparison.seeds[0]).edges)
    figure = Figure(figsize=(7, 1.4 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for side in SIDES:
        for seed in comparison.seeds:
            for row, task in enumerate(names):
                one = comparison.of(side, task, seed)
                style = "full" if one.reached else "none"
                axes.plot(max(1, one.edges), row, "o", color=COLOURS[side], fillstyle=style, alpha=0.8)
            if (mean := comparison.mean(side, "edges", seed)) == mean:
                axes.axvline(mean, color=COLOURS[side], linewidth=0.8, linestyle="--")
        axes.plot([], [], "o", color=COLOURS[side], label=side)
    axes.set_yticks(range(len(names)), names)
    axes.set_xscale("log")
    title = f"circuits at a loss of {comparison.target:g} nats (dashed: geometric means)"
    axes.set(xlabel="edges of the circuit", title=title)
    figure.legend(loc="outside lower right", ncols=len(SIDES))
    save_figure(figure, path)
