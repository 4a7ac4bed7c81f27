"""What a run measures, and where it writes it: metrics.jsonl (one JSON object a line), TensorBoard, and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.corpus import Corpus
from openwork.model import Transformer


class MetricsLog:
    """Appends to ``metrics.jsonl`` and TensorBoard; opened at a step, it drops what was logged after it."""

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "metrics.jsonl"
        lines = [line for line in read_metrics(directory) if line["step"] <= step]
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        self.file = self.path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line for `step`; numbers, also nested ones, go to TensorBoard under their dotted names."""
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        for name, value in values.items():
            for inner, number in (value if isinstance(value, dict) else {"": value}).items():
                self.board.add_scalar(f"{name}/{inner}" if inner else name, number, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *failure: object) -> None:
        self.file.close()
        self.board.close()


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; a last line cut short by a kill is left out."""
    path, lines = Path(directory) / "metrics.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


@torch.no_grad()
def validation_loss(model: Transformer, batches: list[Tensor]) -> float:
    """Mean nats per token over `batches`, each (batch, position + 1)."""
    losses = [next_token_loss(model(batch[:, :-1]), batch[:, 1:]) for batch in batches]
    return float(torch.stack(losses).mean())


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, mean over tokens, of logits (batch, position, d_vocab) and targets (batch, position)."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def validation_batches(corpus: Corpus, n_tokens: int, n_ctx: int, batch_size: int, device: str) -> list[Tensor]:
    """Fixed batches of about `n_tokens` validation tokens in all, or as many as there are; the same for every run with
    this context."""
    n = max(1, min(n_tokens, len(corpus.validation)) // (batch_size * n_ctx))
    return [corpus.batch("validation", step, batch_size, n_ctx, 0).to(device) for step in range(n)]


@torch.no_grad()
def dead_units(model: Transformer, batch: Tensor) -> dict[str, int]:
    """Per layer, the MLP neurons and the q/k channels that are zero at every position of `batch` (batch, position + 1).

    A q/k channel counts as dead if its q or its k is: their product is then zero.
    """
    sites = [
        f"{layer}.{kind}" for layer in range(model.config.n_layers) for kind in ("mlp.post_act", "attn.q", "attn.k")
    ]
    active = {site: x.flatten(0, 1).ne(0).any(0) for site, x in model.run(batch[:, :-1], record=sites)[1].items()}
    dead = {}
    for layer in range(model.config.n_layers):
        dead[f"{layer}.neurons"] = int((~active[f"{layer}.mlp.post_act"]).sum())
        dead[f"{layer}.qk_channels"] = int((~(active[f"{layer}.attn.q"] & active[f"{layer}.attn.k"])).sum())
    return dead


def plot_run(directory: str | Path) -> Path:
    """Draw losses, learning rate, L0 and dead units of the run in `directory` as ``training.png``; returns its path."""
    from matplotlib.figure import Figure

    lines = read_metrics(directory)
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots(2, 2)
    panels = [("loss (nats per token)", ("loss", "validation_loss")), ("non-zero weights (L0)", ("l0",))]
    panels += [("learning rate", ("learning_rate",)), ("dead units", ("dead_neurons", "dead_qk_channels"))]
    for axis, (title, names) in zip(axes.flat, panels, strict=True):
        for name in names:
            points = [(line["tokens"], line[name]) for line in lines if name in line]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.replace("_", " "), linewidth=1)
        axis.set(title=title, xlabel="tokens")
        axis.grid(alpha=0.3)
        if len(names) > 1:
            axis.legend()
    axes[0, 1].set_yscale("log")
    path = Path(directory) / "training.png"
    figure.savefig(path, dpi=120)
    return path
