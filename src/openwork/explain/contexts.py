"""The stretches of a corpus in which nodes are watched."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from openwork.corpus import Corpus

N_CONTEXTS = 1024
BATCH = 16


def corpus_contexts(corpus: Corpus, n_ctx: int, n: int = N_CONTEXTS) -> Iterator[Tensor]:
    """Batches (batch, n_ctx) of `n` stretches of the validation split, evenly spread and without overlap.

    Fewer if the split is short; of the training split if there is no validation split.
    """
    tokens = corpus.validation if len(corpus.validation) else corpus.train
    length = min(n_ctx, len(tokens))
    n = min(n, len(tokens) // length) if length else 0
    starts = [i * (len(tokens) - length) // max(1, n - 1) for i in range(n)]
    for i in range(0, n, BATCH):
        yield torch.stack([torch.from_numpy(tokens.window(start, length)) for start in starts[i : i + BATCH]])
