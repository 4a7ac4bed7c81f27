"""Random circuits: as many nodes at every site as the circuit has, drawn from all of the site's nodes.

They are the control of every check: a question that a random circuit of the same size also passes says nothing. Like
the circuit itself they run once on the validation pairs (`Run`), for all checks that ask something of their answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from openwork.artifacts import Circuit
from openwork.model import Transformer, circuit_sites
from openwork.pruning import edges_between
from openwork.pruning.calibration import calibrate
from openwork.tasks import Pairs

N_RANDOM = 20


def random_circuits(circuit: Circuit, n: int = N_RANDOM, seed: int = 0) -> list[Circuit]:
    """`n` circuits with as many nodes per site as `circuit`; q and k of a layer draw the same channels, as in pruning.

    Every weight between two of its nodes is an edge: more than the circuit has, if anything. They are not calibrated
    (see `Run`) and carry no names: they are there to be run.
    """
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
        edges = edges_between(model, kept)
        found.append(replace(circuit, kept=kept, nodes=(), edges=edges, scale=1.0, shift=0.0))
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

    def calibrated(self) -> Run:
        """With the scale and shift that suit the circuit best on these pairs: a control has the help it had."""
        scale, shift = calibrate(self.pairs.differences(self.logits))
        return replace(self, circuit=replace(self.circuit, scale=float(scale), shift=float(shift)))


@torch.no_grad()
def run(circuit: Circuit, pairs: Pairs) -> Run:
    """`circuit` on `pairs`, with everything else ablated."""
    return Run(circuit, pairs, circuit(pairs.flat, pairs.due))
