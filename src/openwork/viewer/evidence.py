"""What is seen of a circuit's nodes: the texts where they are most active, and what they do on one pair of the task.

The corpus passes through the whole model once, batch by batch; of every node only the texts that are still among the
largest or the smallest so far are kept, so that memory does not grow with the corpus.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.artifacts import Circuit
from openwork.model import Transformer
from openwork.viewer.payload import Window

BEFORE, AFTER = 23, 8
"""Tokens shown before and after the peak; a causal model has seen those before it."""
PER_SIGN = 8
"""Texts per node and sign."""
_SPARE = 4
"""So many times PER_SIGN texts are kept while streaming, since texts that repeat each other are dropped at the end."""
_NO_TOKEN = -1


@dataclass(frozen=True)
class Evidence:
    """What was seen of one node in the corpus."""

    positive: list[Window]
    negative: list[Window]
    active: float
    """Fraction of positions where it is not zero."""


@torch.no_grad()
def watch(
    model: Transformer, kept: Mapping[str, Tensor], contexts: Iterable[Tensor]
) -> tuple[dict[tuple[str, int], Evidence], int]:
    """For each node (site, channel) of `kept`, what was seen of it in `contexts`, and how many positions these have.

    Activations are those of the whole model, nothing ablated.
    """
    device = model.embed.weight.device
    largest = {site: Largest(len(index), +1) for site, index in kept.items()}
    smallest = {site: Largest(len(index), -1) for site, index in kept.items()}
    active = {site: torch.zeros(len(index)) for site, index in kept.items()}
    n_positions = 0
    for tokens in contexts:
        recorded = model.run(tokens.to(device), record=list(kept))[1]
        n_positions += tokens.numel()
        for site, index in kept.items():
            x = recorded[site][..., index.to(device)].float().cpu()
            largest[site].update(tokens, x)
            smallest[site].update(tokens, x)
            active[site] += (x != 0).sum((0, 1))
    seen = {
        (site, channel): Evidence(
            largest[site].windows(i), smallest[site].windows(i), float(active[site][i]) / max(1, n_positions)
        )
        for site, index in kept.items()
        for i, channel in enumerate(index.tolist())
    }
    return seen, n_positions


class Largest:
    """The contexts with the largest activations of `n` nodes so far (`sign` -1: the smallest), one peak per context."""

    def __init__(self, n: int, sign: int) -> None:
        self.sign = sign
        self.peaks = torch.zeros(n, 0)
        self.ids = torch.zeros(n, 0, BEFORE + 1 + AFTER, dtype=torch.int64)
        self.values = torch.zeros(n, 0, BEFORE + 1 + AFTER)

    def update(self, tokens: Tensor, x: Tensor) -> None:
        """Take in tokens (B, T) and the nodes' activations x (B, T, n)."""
        peak_BN, at_BN = (self.sign * x).max(1)
        places = at_BN[..., None] + torch.arange(BEFORE + 1 + AFTER)
        context = torch.arange(len(tokens))[:, None, None]
        node = torch.arange(x.shape[-1])[None, :, None]
        ids = F.pad(tokens.cpu(), (BEFORE, AFTER), value=_NO_TOKEN)[context, places]
        values = F.pad(x, (0, 0, BEFORE, AFTER))[context, places, node]
        peaks = torch.cat([self.peaks, peak_BN.T], 1)
        self.peaks, best = peaks.topk(min(_SPARE * PER_SIGN, peaks.shape[1]))
        self.ids = _chosen(torch.cat([self.ids, ids.transpose(0, 1)], 1), best)
        self.values = _chosen(torch.cat([self.values, values.transpose(0, 1)], 1), best)

    def windows(self, i: int) -> list[Window]:
        """The texts of node `i`, the most active first; no two with the same tokens up to their peaks."""
        found: dict[tuple[int, ...], Window] = {}
        for peak, ids, values in zip(
            self.peaks[i].tolist(), self.ids[i].tolist(), self.values[i].tolist(), strict=True
        ):
            if peak <= 0 or len(found) == PER_SIGN:
                break
            inside = [k for k, token in enumerate(ids) if token != _NO_TOKEN]
            window = Window([ids[k] for k in inside], [values[k] for k in inside], inside.index(BEFORE))
            found.setdefault(tuple(window.tokens[: window.peak + 1][-8:]), window)
        return list(found.values())


def _chosen(x: Tensor, best: Tensor) -> Tensor:
    return x.gather(1, best[..., None].expand(-1, -1, x.shape[-1]))


@dataclass(frozen=True)
class Recorded:
    """One runner, the model or the circuit, on the two prompts of a pair."""

    logits: Tensor
    """(member, d_vocab), where the answer is due."""
    activations: dict[str, Tensor]
    """For each recorded site, (member, position, width)."""


@torch.no_grad()
def on_prompts(circuit: Circuit, tokens: Tensor, *, whole_model: bool) -> Recorded:
    """Run the whole model, or the circuit alone, on two prompts (2, position) that end where the answer is due."""
    assert circuit.model is not None
    heads = {site.rpartition(".")[0] for site in circuit.kept if site.endswith(("attn.q", "attn.k", "attn.v"))}
    sites = {*circuit.kept, *(f"{block}.{part}" for block in heads for part in "qk")}
    run = circuit.model.run if whole_model else circuit.run
    logits, recorded = run(tokens, record=sorted(sites))
    return Recorded(logits[:, -1].float().cpu(), recorded)
