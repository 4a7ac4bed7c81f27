"""What a run measures, and where it writes it: metrics.jsonl (one JSON object a line), TensorBoard, and a plot."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openwork.corpus import Corpus
from openwork.errors import UserError
from openwork.files import read_bytes, save_figure, write_atomically
from openwork.kernels import cross_entropy
from openwork.model import Transformer

log = logging.getLogger(__name__)


class MetricsLog:
    """Appends to ``metrics.jsonl`` and TensorBoard; opened at a step, it drops what was logged after it."""

    def __init__(self, directory: Path, step: int) -> None:
        self.path = directory / "metrics.jsonl"
        lines = [line for line in read_metrics(directory) if line["step"] <= step]
        if step > (lines[-1]["step"] if lines else 0):
            log.warning("%s lacks the last steps before %d; the run goes on without them", self.path, step)
        self.step = step
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in lines))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line for `step`; numbers, also nested ones, go to TensorBoard under their dotted names."""
        with self._disk():
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                for inner, number in (value if isinstance(value, dict) else {"": value}).items():
                    self.board.add_scalar(f"{name}/{inner}" if inner else name, number, step)

    def __enter__(self) -> MetricsLog:
        from torch.utils.tensorboard import SummaryWriter

        self.hook, threading.excepthook = threading.excepthook, self._note_failure
        with self._disk():
            self.file = self.path.open("a", encoding="utf-8")
            self.board = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=self.step + 1)
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        try:
            with self._disk():
                self.file.close()
                self.board.close()
        except UserError:
            if kind is None:  # else there is a first failure to tell
                raise
        finally:
            threading.excepthook = self.hook

    def _note_failure(self, args: threading.ExceptHookArgs) -> None:
        """TensorBoard writes in a thread of its own; its next call raises there what is not to be printed here."""
        if not isinstance(args.exc_value, OSError):
            self.hook(args)

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            mend = "free some space, then the same command goes on from the last checkpoint"
            raise UserError(f"cannot write the metrics in {self.path.parent}: {reason}; {mend}") from error


def read_metrics(directory: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's ``metrics.jsonl``; what follows a damaged line, such as a last one
    cut short by a kill, is left out."""
    path, lines = Path(directory) / "metrics.jsonl", []
    for text in read_bytes(path, "metrics").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            break
        lines.append(line)
    return lines


def last_validation_loss(directory: str | Path) -> float:
    """The validation loss with which the run in `directory` ended, in nats per token.

    Raises:
        UserError: its metrics end without one.
    """
    lines = read_metrics(directory)
    if not lines or "validation_loss" not in lines[-1]:
        raise UserError(f"{directory}/metrics.jsonl does not end with a validation; restore it, or train again")
    return lines[-1]["validation_loss"]


@torch.no_grad()
def validation_loss(model: Transformer, batches: list[Tensor]) -> float:
    """Mean nats per token over `batches`, each (batch, position + 1)."""
    losses = [next_token_loss(model(batch[:, :-1]), batch[:, 1:]) for batch in batches]
    return float(torch.stack(losses).mean())


def next_token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, mean over tokens, of logits (batch, position, d_vocab) and targets (batch, position)."""
    return cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def validation_batches(corpus: Corpus, n_tokens: int, n_ctx: int, batch_size: int, device: str) -> list[Tensor]:
    """Fixed batches of about `n_tokens` validation tokens in all, or as many as there are; the same for every run with
    this context and batch size."""
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
    save_figure(figure, path)
    return path
