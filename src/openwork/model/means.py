"""Mean activations: what a node is set to when it is ablated (paper, 2.2)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from openwork.model.sites import ablated_sites
from openwork.model.transformer import Transformer


@torch.no_grad()
def mean_activations(model: Transformer, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """For each of `ablated_sites`, the mean (width,) of its activations over all positions of `batches`, each
    (batch, position).

    Give batches of the training corpus: the mean is over the pretraining distribution, the same at every prompt and
    position.
    """
    sites = list(ablated_sites(model.config))
    sums, count = {site: torch.zeros((), dtype=torch.float64) for site in sites}, 0
    for tokens in batches:
        recorded = model.run(tokens, record=sites)[1]
        for site, x in recorded.items():
            sums[site] = sums[site] + x.double().sum((0, 1)).cpu()
        count += tokens.numel()
    return {site: (total / count).float() for site, total in sums.items()}
