"""The training loop: batch, loss, backward, scale, step, project, log (paper, 2.1 and A.2).

A run writes a Model directory with its own state beside it:

    OUT/config.json, weights.safetensors, tokenizer.json    the Model, written when training ends
    OUT/metrics.jsonl, tensorboard/, training.png           what was measured
    OUT/checkpoints/step-*.checkpoint                       the state to go on from
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from openwork import kernels
from openwork.config import to_dict
from openwork.corpus import Corpus
from openwork.errors import Interrupted, UserError
from openwork.files import only_run
from openwork.memory import keep_freed_memory
from openwork.model import ModelConfig, Transformer, all_sites, check_memory, mean_activations
from openwork.models import check_corpus, save_model
from openwork.sparsity import (
    Adam,
    AdamConfig,
    KeptAdam,
    SparsityConfig,
    count_nonzero,
    density_at,
    learning_rate_at,
    quotas,
    use_sparse_layers,
)
from openwork.training.card import write_card
from openwork.training.checkpoints import resume, save_checkpoint
from openwork.training.gradient import Gradient
from openwork.training.metrics import (
    MetricsLog,
    dead_units,
    plot_run,
    read_metrics,
    validation_batches,
    validation_loss,
)

MEANS_SEED = 1 << 32
"""Seed of the batches that means are taken over, apart from those of training."""
MEANS_BATCH = 2048
"""Tokens of a batch for the means, at least: calls of less are mostly overhead."""
Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    mode: Literal["exact", "fast"] = "exact"
    """exact: a gradient and moments for every weight. fast: once the density no longer falls, and from `fast_from` on,
    for the kept weights and as many zeros alone, of matrices that keep an eighth or less (see
    `openwork.sparsity.kept`)."""
    fast_from: float = 0.5
    """The fraction of training before which fast mode is exact mode, however early annealing ends: the longer it is
    fast, the more it loses (docs/log.md, "Annealing in a tenth of the run")."""
    refresh_every: int = 20
    """In fast mode, steps from one dense gradient, after which weights may come back, to the next."""
    model: ModelConfig = field(default_factory=ModelConfig)
    sparsity: SparsityConfig = field(default_factory=SparsityConfig)
    tokens: int = 5_000_000
    """Tokens to train on."""
    batch_size: int = 16
    """Sequences of n_ctx tokens per step."""
    learning_rate: float = 1.28e-2
    """Peak learning rate, as it is at the final density (see `openwork.sparsity.sharkfin`)."""
    warmup: float = 0.01
    """Fraction of training over which the learning rate rises."""
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 0.1
    """Adam's epsilon; large, because gradients have RMS 1."""
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the products on a GPU; weights, moments and losses are float32, and on the CPU all is."""
    validate_every: int = 100
    """Steps between two validations."""
    validation_tokens: int = 32_768
    checkpoint_every: int = 200
    """Steps between two checkpoints."""

    def __post_init__(self) -> None:
        for name in (
            "tokens",
            "batch_size",
            "validate_every",
            "validation_tokens",
            "checkpoint_every",
            "refresh_every",
        ):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be greater than 0")
        for name in ("learning_rate", "eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be greater than 0, and finite")
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"weight_decay is {self.weight_decay}; it must be at least 0, and finite")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"betas is {self.betas}; it must be two numbers in [0, 1), such as 0.9,0.95")
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}; it must lie in [0, 2^63)")
        for name in ("warmup", "fast_from"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.model.n_ctx

    @property
    def n_steps(self) -> int:
        return math.ceil(self.tokens / self.tokens_per_step)


class Diverged(UserError):
    """The loss or the gradient is no longer finite."""


def train(corpus: Corpus, config: TrainConfig, out: str | Path, report: Report = lambda line: None) -> Transformer:
    """Train a model on `corpus` into the Model directory `out`, going on where an earlier run there was stopped.

    `report` gets what each step measured. Ctrl-C and SIGTERM end the run cleanly after the step, with a checkpoint.

    Raises:
        UserError: corpus and config do not fit, `out` holds a run with other settings, or another run writes there.
        Diverged: the loss or the gradient is not finite.
        Interrupted: the run was asked to stop.
    """
    out, device = Path(out), pick_device(config.device)
    if (out / "manifest.json").exists():
        raise UserError(f"{out} holds a corpus; give another directory for the model")
    if not any((out / "checkpoints").glob("step-*")):
        for name in ("config.json", "README.md"):
            if (out / name).exists():
                raise UserError(f"{out} has a {name} that is of no run to go on with; give another directory")
    _check_fit(corpus, config)
    keep_freed_memory()
    model = Transformer(config.model, seed=config.seed).to(device)
    quotas(model, config.sparsity, config.sparsity.density)  # refuses a density that is too low for its floor
    model.tokenizer = corpus.tokenizer
    if config.model.bigram == "counted":
        model.bigram.data.copy_(count_bigrams(corpus, config.model.d_vocab))
    optimizer, gradient = make_optimizer(model, config), Gradient(model, config.precision)
    about = {"config": to_dict(config), "corpus": corpus.manifest.hash}
    fixed = validation_batches(corpus, config.validation_tokens, config.model.n_ctx, config.batch_size, device)
    with only_run(out / "checkpoints", "wait, or train into another directory"):
        start = resume(out / "checkpoints", model, optimizer, about)
        ended = [line for line in read_metrics(out) if line["step"] == config.n_steps]
        if start == config.n_steps and not any("validation_loss" in line for line in ended):
            raise UserError(
                f"the metrics of the finished run in {out} are damaged; restore metrics.jsonl, or delete {out}"
            )
        with MetricsLog(out, start) as metrics, _stop_request() as stopping:
            for step in range(start, config.n_steps):
                began = time.perf_counter()
                batch = corpus.batch("train", step, config.batch_size, config.model.n_ctx, config.seed).to(device)
                line = train_step(gradient, optimizer, batch, step, config)
                if not math.isfinite(line["loss"] + line["gradient_rms"]):
                    raise Diverged(_what_diverged(model, batch, step))
                line["tokens_per_second"] = config.tokens_per_step / (time.perf_counter() - began)

                done = step + 1
                last = done == config.n_steps
                if last or done % config.validate_every == 0:
                    line |= _validate(model, fixed)
                metrics.write(done, line)
                report({"step": done, "n_steps": config.n_steps, **line})
                stop = stopping()  # asked once: what is told to go on from here has been saved
                if last or stop or done % config.checkpoint_every == 0:
                    save_checkpoint(out / "checkpoints", done, model, optimizer, about)
                if stop and not last:
                    where = f"stopped after step {done} of {config.n_steps}"
                    raise Interrupted(f"{where}; the same command goes on from there")
    optimizer.settle()
    plot_run(out)
    model.means = corpus_means(model, corpus)
    about = {"training": to_dict(config), "corpus": corpus.manifest.hash, "data": corpus.manifest.source}
    save_model(model, out, about=about)
    write_card(model, corpus, out)
    return model.eval()


def corpus_means(model: Transformer, corpus: Corpus, n_tokens: int = 262_144) -> dict[str, Tensor]:
    """Mean activation of every node over about `n_tokens` training tokens, always the same ones.

    Raises:
        UserError: the corpus has another tokenizer than the model.
    """
    check_corpus(model, corpus)
    batch_size = max(16, MEANS_BATCH // model.config.n_ctx)
    n = max(1, n_tokens // (batch_size * model.config.n_ctx))
    device = model.embed.weight.device
    return mean_activations(
        model,
        (
            corpus.batch("train", step, batch_size, model.config.n_ctx, MEANS_SEED)[:, :-1].to(device)
            for step in range(n)
        ),
    )


def make_optimizer(model: Transformer, config: TrainConfig) -> Adam:
    """The optimiser of the config's mode; `model` is given sparse layers where the kernels can run."""
    layers = use_sparse_layers(model) if kernels.native and model.embed.weight.device.type == "cpu" else []
    adam = AdamConfig(config.betas, config.eps, config.weight_decay)
    if config.mode == "fast":
        final = quotas(model, config.sparsity, config.sparsity.density)
        first = math.ceil(config.fast_from * config.n_steps)
        return KeptAdam(model.named_parameters(), adam, layers, final, config.refresh_every, first)
    return Adam(model.named_parameters(), adam)


def train_step(gradient: Gradient, optimizer: Adam, batch: Tensor, step: int, config: TrainConfig) -> dict[str, Any]:
    """One step of the method on `batch` (batch, position + 1): loss, backward, scale, Adam, project.

    Returns what it measured; if loss or gradient are not finite, weights and moments stay as they were.
    """
    progress = step / config.n_steps
    last = step + 1 == config.n_steps  # reaches the end also where `progress` does not quite
    density = config.sparsity.density if last else density_at(progress, config.sparsity)
    rate = learning_rate_at(progress, config.learning_rate, config.warmup, density, config.sparsity)

    optimizer.begin(step)
    loss = float(gradient(batch))
    gradient_rms = optimizer.gradient_rms()
    if math.isfinite(loss + gradient_rms):
        optimizer.step(rate, gradient_rms, quotas(gradient.model, config.sparsity, density))
    optimizer.zero_grad()
    return {
        "tokens": (step + 1) * config.tokens_per_step,
        "loss": loss,
        "learning_rate": rate,
        "density": density,
        "gradient_rms": gradient_rms,
    }


def pick_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """`wanted`, or for "auto" a GPU where there is one; a `UserError` if "cuda" is wanted and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device is 'cuda', but PyTorch sees no GPU here; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def count_bigrams(corpus: Corpus, d_vocab: int, smoothing: float = 0.1) -> Tensor:
    """Log probabilities (d_vocab, d_vocab) of the next token given the last one, counted over the training tokens."""
    tokens = torch.from_numpy(corpus.train.window(0, len(corpus.train)))
    counts = torch.bincount(tokens[:-1] * d_vocab + tokens[1:], minlength=d_vocab * d_vocab)
    table = counts.view(d_vocab, d_vocab).float() + smoothing
    return (table / table.sum(1, keepdim=True)).log()


def _validate(model: Transformer, batches: list[Tensor]) -> dict[str, Any]:
    """Validation loss, L0 per parameter and in all (but for the bigram table, dense on purpose), and dead units."""
    l0 = count_nonzero(list(model.named_parameters()))
    dead = dead_units(model, batches[0])
    return {
        "validation_loss": validation_loss(model, batches),
        "l0": sum(n for name, n in l0.items() if name != "bigram"),
        "l0_of": l0,
        "dead_neurons": sum(n for name, n in dead.items() if name.endswith("neurons")),
        "dead_qk_channels": sum(n for name, n in dead.items() if name.endswith("qk_channels")),
        "dead_of": dead,
    }


def _check_fit(corpus: Corpus, config: TrainConfig) -> None:
    check_memory(config.model, copies=4)  # weights, gradients, Adam's two moments
    if config.tokens_per_step > len(corpus.train):
        raise UserError(
            f"a step of batch_size {config.batch_size} and model.n_ctx {config.model.n_ctx} is more than the "
            f"{len(corpus.train):,} train tokens of {corpus.path}; lower one of them, or build a larger corpus"
        )
    if corpus.tokenizer.d_vocab > config.model.d_vocab:
        raise UserError(
            f"model.d_vocab is {config.model.d_vocab}, but the corpus {corpus.path} has "
            f"{corpus.tokenizer.d_vocab} tokens; set model.d_vocab={corpus.tokenizer.d_vocab}"
        )


@torch.no_grad()
def _what_diverged(model: Transformer, batch: Tensor, step: int) -> str:
    """One line: the step, and the first site whose activations are not finite."""
    sites = all_sites(model.config)
    logits, acts = model.run(batch[:, :-1], record=sites)
    bad = [site for site in sites if not acts[site].isfinite().all()]
    first = bad[0] if bad else "the gradient" if logits.isfinite().all() else "the logits"
    return (
        f"training diverged at step {step + 1}: the first values that are not finite are in {first}; "
        "train into another directory with a lower learning_rate or a longer warmup"
    )


@contextmanager
def _stop_request() -> Iterator[Callable[[], bool]]:
    """Within, SIGINT and SIGTERM only set a flag, which the yielded function tells; a second SIGINT acts at once."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
