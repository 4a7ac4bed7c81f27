"""What a run measures, and where it writes it: metrics.jsonl (one JSON object a line), TensorBoard, and a plot."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.artifacts import write_atomically
from openwork.corpus import Corpus
from openwork.errors import UserError
from openwork.model import Transformer

log = logging.getLogger(__name__)


class MetricsLog:
    """Appends to ``metrics.jsonl`` and TensorBoard; opened at a step, it drops what was logged after it."""

    def __init__(self, directory: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / "metrics.jsonl"
        lines = [line for line in read_metrics(directory) if line["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self.file = self.path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line for `step`; numbers, also nested ones, go to TensorBoard under their dotted names."""
        try:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            self._write_board(step, values)
        except OSError as error:
            raise UserError(
                f"cannot write {self.path} or the TensorBoard files beside it: {error.strerror or error}; "
                "free some space, the same command then goes on from the last checkpoint"
            ) from error

    def _write_board(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            for inner, number in (value if isinstance(value, dict) else {"": value}).items():
                self.board.add_scalar(f"{name}/{inner}" if inner else name, number, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *failure: object) -> None:
        for part in (self.file, self.board):
            try:
                part.close()
            except OSError as error:  # what could not be written is written again from the last checkpoint on
                log.warning("%s is not whole: %s", self.path.parent, error.strerror or error)


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; a last line cut short by a kill is left out."""
    path, lines = Path(directory) / "metrics.jsonl", []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            values = json.loads(line)
        except ValueError:
            break
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            break
        lines.append(values)
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
    """Fixed batches of about `n_tokens` validation tokens in all, the same for every run with this context."""
    n = max(1, n_tokens // (batch_size * n_ctx))
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
    path, drawn = Path(directory) / "training.png", io.BytesIO()
    figure.savefig(drawn, dpi=120, format="png")
    write_atomically(path, drawn.getvalue())
    return path
