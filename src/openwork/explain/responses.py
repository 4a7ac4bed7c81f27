"""What a node responds to: at which tokens it leaves the value that it mostly has, and how selective it is about them.

A node's *resting value* is its median over all positions (zero for most nodes, since AbsTopK closes them; a bias for
some). Its *response* is how far it is from there. Its *selectivity* is the share of all its response (the sum of the
absolute deviations over all positions) that falls on its three strongest tokens: near 1 for a node about these tokens
alone, near 0 for one that responds to everything a little. A token that is common counts as often as it comes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.artifacts import Circuit
from openwork.corpus import Corpus
from openwork.explain.contexts import corpus_contexts
from openwork.model import Transformer

N_TOKENS = 3
N_CONTEXTS = 256
"""Stretches of the corpus in which nodes are watched."""
STILL = 1e-5
"""Values that differ by no more are the same, relative to the largest (float32 rounds)."""


@dataclass(frozen=True)
class Response:
    """A token, a node's mean value at it, and the share of all its response that falls on it."""

    token: int
    value: float
    share: float


@dataclass(frozen=True)
class Responses:
    """What one node does over many positions."""

    resting: float
    """Its median."""
    smallest: float
    largest: float
    active: float
    """Share of positions at which it is not at rest."""
    strongest: tuple[Response, ...]
    """The tokens on which most of its response falls, at most `N_TOKENS`."""

    @property
    def selectivity(self) -> float:
        """Share of its response that falls on its strongest tokens; 0 for a node at rest."""
        return sum(response.share for response in self.strongest)

    @property
    def constant(self) -> bool:
        """Whether it has the same value at every position."""
        return is_still(self.smallest, self.largest)


def is_still(smallest: float, largest: float) -> bool:
    """Whether values between these two are the same to rounding."""
    return largest - smallest <= STILL * max(abs(smallest), abs(largest))


def responses(tokens: Tensor, values: Tensor) -> Responses:
    """What a node with `values` (n,) does at positions that hold `tokens` (n,)."""
    resting = values.double().median()
    away = (values.double() - resting).abs()
    found, place, count = tokens.unique(return_inverse=True, return_counts=True)
    by_token = torch.zeros(len(found), dtype=torch.float64).index_add(0, place, away)
    means = torch.zeros(len(found), dtype=torch.float64).index_add(0, place, values.double()) / count
    shares = by_token / by_token.sum().clamp_min(1e-30)
    best = shares.sort(descending=True, stable=True).indices[:N_TOKENS].tolist()
    small, large = float(values.min()), float(values.max())
    still = is_still(small, large)
    strongest = [Response(int(found[i]), float(means[i]), float(shares[i])) for i in best if shares[i] > 0]
    threshold = STILL * max(abs(small), abs(large))
    return Responses(
        resting=float(resting),
        smallest=small,
        largest=large,
        active=float((away > threshold).double().mean()),
        strongest=() if still else tuple(strongest),
    )


@torch.no_grad()
def corpus_responses(circuit: Circuit, model: Transformer, corpus: Corpus) -> dict[tuple[str, int], Responses]:
    """For each node (site, channel) of the circuit, what it does in the whole model over stretches of `corpus`."""
    sites = sorted(circuit.kept)
    seen: list[Tensor] = []
    acts: dict[str, list[Tensor]] = {site: [] for site in sites}
    for tokens in corpus_contexts(corpus, model.config.n_ctx, N_CONTEXTS):
        recorded = model.run(tokens, record=sites)[1]
        seen.append(tokens.flatten())
        for site in sites:
            acts[site].append(recorded[site][..., circuit.kept[site]].flatten(0, 1))
    return over_positions(circuit, torch.cat(seen), {site: torch.cat(parts) for site, parts in acts.items()})


def over_positions(circuit: Circuit, tokens: Tensor, kept: dict[str, Tensor]) -> dict[tuple[str, int], Responses]:
    """`responses` of each kept node, from tokens (n,) and, for each site, the kept nodes' values (n, nodes)."""
    return {
        (site, channel): responses(tokens, kept[site][:, i])
        for site in sorted(kept)
        for i, channel in enumerate(circuit.kept[site].tolist())
    }
