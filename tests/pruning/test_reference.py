"""The circuits that come with the sparse reference model."""

from __future__ import annotations

import pytest
import torch

from openwork import tasks
from openwork.models import circuits, load_model, path
from openwork.pruning import PruneConfig, load_circuit
from openwork.pruning.judge import CheckedJudge
from openwork.pruning.minimal import _every
from openwork.pruning.problem import Problem
from openwork.pruning.universe import Universe

FEW = 200
"""Edges of a circuit that is looked at: each takes a run of all its pairs."""


@pytest.mark.slow
@pytest.mark.parametrize("name", circuits(path("reference-sparse")))
def test_no_edge_and_no_node_can_go(name):
    model = load_model(path("reference-sparse"))
    circuit = load_circuit(circuits(path("reference-sparse"))[name], model)
    if len(circuit.edges) > FEW:
        pytest.skip(f"{len(circuit.edges)} edges")
    task = tasks.get(name, model.tokenizer)
    config = PruneConfig(validation_pairs=circuit.n_pairs)
    problem = Problem(model, task, circuit.ablation_values, config, lambda line: None)
    universe = Universe.of(model, circuit.kept)
    own = set(circuit.edges)
    every = universe.edges_of(torch.ones(universe.n_edges), model.config.d_head)
    edge = torch.tensor([float(one in own) for one in every])
    fixed = problem.judge(universe, problem.pairs(problem.config.fixed_pairs, 4, circuit.seed))
    judge = CheckedJudge(fixed, problem.validation, circuit.target)
    assert int(edge.sum()) == len(circuit.edges)
    assert judge.losses(edge[None]).item() <= circuit.target
    assert not (judge.losses(_every(judge, edge)) <= circuit.target).any()
