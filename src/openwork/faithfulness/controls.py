"""Random circuits: as many nodes at every site as the circuit has, drawn from all of the site's nodes.

They are the control of every check: a question that a random circuit of the same size also passes says nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from openwork.artifacts import Circuit
from openwork.pruning.discretise import calibrate
from openwork.tasks import Pairs

N_RANDOM = 20


def random_circuits(circuit: Circuit, n: int = N_RANDOM, seed: int = 0) -> list[Circuit]:
    """`n` circuits with as many nodes per site as `circuit`; q and k of a layer draw the same channels, as in pruning.

    They are not calibrated (see `calibrated`) and carry no edges or names: they are there to be run.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(n):
        kept = {}
        for site, indices in circuit.kept.items():
            width = len(circuit.ablation_values[site])
            twin = site.replace("attn.k", "attn.q")
            kept[site] = (
                kept[twin]
                if twin != site and len(kept.get(twin, ())) == len(indices)
                else torch.randperm(width, generator=generator)[: len(indices)].sort().values
            )
        found.append(replace(circuit, kept=kept, nodes=(), edges=(), scale=1.0, shift=0.0))
    return found


@torch.no_grad()
def calibrated(circuit: Circuit, pairs: Pairs) -> Circuit:
    """`circuit` with the scale and shift that suit it best on `pairs`: a control has the help that the circuit had."""
    with torch.enable_grad():
        scale, shift = calibrate(pairs.differences(circuit(pairs.flat)))
    return replace(circuit, scale=scale, shift=shift)
