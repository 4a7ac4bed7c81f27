"""Loss and gradient of a batch; on a GPU from a recording.

Forward and backward pass of a small model are some thousand small kernels, and a GPU is done with each before Python
has started the next. So on a GPU both passes are recorded once, as a CUDA graph, and then started as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from openwork.model import Transformer
from openwork.training.metrics import next_token_loss

WARM_UP = 3
"""Passes before the recording: kernels are compiled and chosen, and libraries take their memory, on the first."""


@dataclass(frozen=True)
class _Recording:
    """A CUDA graph, the batch that it reads, and the loss and the gradients that it writes."""

    graph: torch.cuda.CUDAGraph
    batch: Tensor
    loss: Tensor
    gradients: Sequence[Tensor | None]


class Gradient:
    """Called with a batch (batch, position + 1), returns `model`'s loss on it, in nats per token.

    The gradient is then in the parameters' ``grad``, which are to be None before.

    On a GPU products are of `precision`, and what a call returns and leaves is overwritten by the next. Hooks and
    profilers see the operators of the recording alone, unless `record` is false.
    """

    def __init__(
        self, model: Transformer, precision: Literal["bfloat16", "float32"] = "float32", record: bool = True
    ) -> None:
        self.model, self.precision, self.record = model, precision, record
        self._recording: _Recording | None = None

    def __call__(self, batch: Tensor) -> Tensor:
        if not (batch.is_cuda and self.record):
            loss = self._loss(batch)
            loss.backward()
            return loss.detach()
        if self._recording is None or self._recording.batch.shape != batch.shape:
            self._recording = self._record(batch)
        recording = self._recording
        recording.batch.copy_(batch)
        recording.graph.replay()
        for parameter, gradient in zip(self._parameters(), recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.loss

    def _record(self, batch: Tensor) -> _Recording:
        batch, graph, aside = batch.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self._both(batch)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            loss, gradients = self._both(batch)
        return _Recording(graph, batch, loss, gradients)

    def _both(self, batch: Tensor) -> tuple[Tensor, Sequence[Tensor | None]]:
        loss = self._loss(batch)
        return loss.detach(), torch.autograd.grad(loss, self._parameters(), allow_unused=True)

    def _loss(self, batch: Tensor) -> Tensor:
        short = batch.is_cuda and self.precision == "bfloat16"
        with torch.autocast("cuda", torch.bfloat16, enabled=short, cache_enabled=False):
            return next_token_loss(self.model(batch[:, :-1]), batch[:, 1:])

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]
