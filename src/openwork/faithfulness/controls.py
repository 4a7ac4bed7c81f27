"""Random circuits: as many nodes at every site as the circuit has, drawn from all of the site's nodes.

They are the control of every check: a question that a random circuit of the same size also passes says nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch

from openwork.artifacts import Circuit
from openwork.model import Transformer, circuit_sites
from openwork.pruning import edges_between
from openwork.pruning.calibration import calibrate
from openwork.tasks import Pairs

N_RANDOM = 20


def random_circuits(circuit: Circuit, n: int = N_RANDOM, seed: int = 0) -> list[Circuit]:
    """`n` circuits with as many nodes per site as `circuit`; q and k of a layer draw the same channels, as in pruning.

    Every weight between two of its nodes is an edge: more than the circuit has, if anything. They are not calibrated
    (see `calibrated`) and carry no names: they are there to be run.
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


@torch.no_grad()
def calibrated(circuit: Circuit, pairs: Pairs) -> Circuit:
    """`circuit` with the scale and shift that suit it best on `pairs`: a control has the help that the circuit had."""
    scale, shift = calibrate(pairs.differences(circuit(pairs.flat)))
    return replace(circuit, scale=float(scale), shift=float(shift))
