"""Controls: random circuits and random nodes. A question that these also pass says nothing.

In a sparse model hardly any weight joins two nodes that are drawn at random, so random circuits are grown weight by
weight, back from what the answers read. Still most of them hardly tell the answers apart: what they show is that
ablation and calibration alone do not do the task, rather than how good another circuit of the size could be. Like the
circuit itself they run once on the validation pairs (`Run`), for all checks that ask something of their
answers. Random nodes are for the check that ablates the circuit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from openwork.artifacts import Circuit, Edge
from openwork.model import (
    FINAL_SITE,
    Matrix,
    Transformer,
    circuit_sites,
    matrices,
    node_name,
    node_sites,
    parse_node,
)
from openwork.pruning.calibration import calibrate
from openwork.tasks import Pairs

N_RANDOM = 20
DRAWS = 10
"""Attempts at a random circuit that is not the circuit itself; there is none where that is the whole model."""


def random_circuits(circuit: Circuit, n: int = N_RANDOM, seed: int = 0, answers: Tensor | None = None) -> list[Circuit]:
    """`n` circuits with as many weights of each matrix as `circuit`, those between what is read and what is written.

    Drawn from the last matrix to the first: weights into what later ones read, in writes also into what the unembedding
    of the tokens `answers` reads (all channels without them), in queries and keys into the heads that move something;
    others, or from more nodes than the circuit has, only where these have too few weights. One that is `circuit`
    itself, as happens in tiny models, is drawn again.
    They are not calibrated (see `Run`) and carry no names: they are there to be run.
    """
    model = cast(Transformer, circuit.model)
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.ones(model.config.d_model, dtype=torch.bool)
    if answers is not None:
        wanted = (model.unembed.weight.detach()[answers] != 0).any(0)
    found = []
    for _ in range(n):
        draws = (_grown(circuit, model, wanted, generator) for _ in range(DRAWS))
        control = next(draws)
        while set(control.edges) == set(circuit.edges) and (again := next(draws, None)):
            control = again
        found.append(control)
    return found


def _grown(circuit: Circuit, model: Transformer, answered: Tensor, generator: torch.Generator) -> Circuit:
    """One of the `random_circuits`; `answered` (d_model,) are the channels that the answers read."""
    d_head, widths = model.config.d_head, node_sites(model.config)
    sizes = Counter(parse_node(edge.target, d_head)[0] for edge in circuit.edges)
    on = {site: torch.zeros(width, dtype=torch.bool) for site, width in widths.items()}
    stream, edges = answered.clone(), []
    for matrix in reversed(list(matrices(model))):
        block, _, kind = matrix.target.rpartition(".")
        wanted = stream if kind == "resid_delta" else on[matrix.target]
        if kind in "qk":
            wanted = on[f"{block}.v"].view(-1, d_head).any(1).repeat_interleave(d_head)
        n_rows, n_columns = (len(circuit.kept.get(site, ())) for site in (matrix.target, matrix.source))
        rows, columns = _weights(matrix, wanted, n_rows, n_columns, sizes[matrix.target], generator)
        on[matrix.target][rows] = on[matrix.source][columns] = True
        if kind in "qk":
            on[f"{block}.q"] |= on[f"{block}.k"]
            on[f"{block}.k"] |= on[f"{block}.q"]
        if matrix.source.endswith("act_in"):
            read = columns[columns < len(stream)]
            stream[read] = True
        edges += [
            Edge(node_name(matrix.source, j, d_head), node_name(matrix.target, i, d_head), float(matrix.weight[i, j]))
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
    kept = {site: index for site in widths if len(index := on[site].nonzero().squeeze(1))}
    if FINAL_SITE in circuit.kept:
        n = len(circuit.kept[FINAL_SITE])
        kept[FINAL_SITE] = torch.randperm(model.config.d_model, generator=generator)[:n].sort().values
    return replace(circuit, kept=kept, nodes=(), edges=tuple(edges), scale=1.0, shift=0.0)


def _weights(
    matrix: Matrix, wanted: Tensor, n_rows: int, n_columns: int, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows and columns of `n` non-zero weights, drawn from at most `n_rows` rows, those that are `wanted` first, and
    `n_columns` columns, or from as many more as have so many weights. Every row has one before any has a second."""
    order = torch.randperm(len(wanted), generator=generator)
    order = torch.cat([order[wanted[order]], order[~wanted[order]]])
    across = torch.randperm(matrix.weight.shape[1], generator=generator)
    present = matrix.weight[order][:, across] != 0
    present = present[: max(min(n_rows, int(wanted.sum())), _enough(present.sum(1), n))]
    present = present[:, : max(n_columns, _enough(present.sum(0), n))]
    rows, columns = present.nonzero().unbind(1)
    drawn = torch.randperm(len(rows), generator=generator)
    again = torch.ones(len(drawn), dtype=torch.bool)
    again[np.unique(rows[drawn].numpy(), return_index=True)[1]] = False
    chosen = drawn[again.int().argsort(stable=True)][:n]
    return order[rows[chosen]], across[columns[chosen]]


def _enough(weights: Tensor, n: int) -> int:
    """Of how many lines, with so many `weights` each, the first have `n` together."""
    return int((weights.cumsum(0) < n).sum()) + 1


def random_nodes(circuit: Circuit, n: int = N_RANDOM, seed: int = 0) -> list[Circuit]:
    """`n` draws of as many nodes per site as `circuit` has, without weights; q and k of a layer draw the same channels,
    as in pruning."""
    model = cast(Transformer, circuit.model)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        kept = {}
        for site, width in circuit_sites(model.config).items():  # in forward order, however the circuit came here
            indices = circuit.kept.get(site, ())
            if not len(indices):
                continue
            twin = site.replace("attn.k", "attn.q")
            kept[site] = (
                kept[twin]
                if twin != site and len(kept.get(twin, ())) == len(indices)
                else torch.randperm(width, generator=generator)[: len(indices)].sort().values
            )
        found.append(replace(circuit, kept=kept, nodes=(), edges=()))
    return found


@dataclass(frozen=True)
class Run:
    """A circuit, and what it answered on pairs."""

    circuit: Circuit
    pairs: Pairs
    logits: Tensor
    """(2n, d_vocab), where the answers are due, before calibration."""

    @property
    def loss(self) -> float:
        """The calibrated loss, in nats."""
        return float(self.pairs.loss(self.logits, self.circuit.scale, self.circuit.shift))

    @property
    def losses(self) -> Tensor:
        """(n,): the calibrated loss of each pair, in nats."""
        differences = self.circuit.scale * self.pairs.differences(self.logits) + self.circuit.shift
        return Pairs.losses(differences[:, None])

    @property
    def standard_error(self) -> float:
        """Of `loss`, for the pairs are a sample, in nats."""
        each = self.losses
        return float(each.std() / len(each) ** 0.5) if len(each) > 1 else 0.0

    def calibrated(self) -> Run:
        """With the scale and shift that suit the circuit best on these pairs: a control has the help it had."""
        scale, shift = calibrate(self.pairs.differences(self.logits))
        return replace(self, circuit=replace(self.circuit, scale=float(scale), shift=float(shift)))


@torch.no_grad()
def run(circuit: Circuit, pairs: Pairs) -> Run:
    """`circuit` on `pairs`, with everything else ablated."""
    return Run(circuit, pairs, circuit(pairs.flat, pairs.due))
