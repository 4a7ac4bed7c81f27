"""The compact forward is `Circuit.run`: for every wiring of the model, every circuit gives the same answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.pruning.planted import PlantedTask

from openwork.artifacts import Circuit
from openwork.model import ModelConfig, Transformer, ablated_sites, node_sites
from openwork.pruning.compact import Compact
from openwork.pruning.judge import Judge
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs

WIRINGS = [
    {},
    {"activation_fraction": 1},
    {"activation_fraction": 0.6, "residual_activation": "relu"},
    {"activation_fraction": 0.1},
    {"norm": "layer"},
    {"bias": False},
    {"sink": False},
    {"bigram": "learned", "positions": "learned"},
    {"positions": "concatenated", "activation": "relu"},
    {"positions": "concatenated", "norm": "layer", "activation": "gelu_tanh", "activation_fraction": 0.55},
    {"sparse_sites": ("resid_mid", "resid_out", "mlp.act_in"), "activation_fraction": 0.7},
]


def pairs_of_any_length() -> Pairs:
    """Six pairs whose answers are due at different positions."""
    return replace(PlantedTask().pairs("train", 6), last=torch.tensor([8, 3, 8, 5, 0, 7]))


def random_model(**wiring) -> Transformer:
    """Two layers, a sparse random wiring, and no parameter that is zero or one by default."""
    model = Transformer(ModelConfig(n_layers=2, d_model=24, d_head=4, d_mlp=40, n_ctx=16, d_vocab=15, **wiring), seed=1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "embed.weight":
                parameter.mul_(5)
            elif parameter.dim() == 2 and name != "bigram":
                parameter.mul_(2 * (torch.rand(parameter.shape, generator=draw) < 0.4))
            else:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
    return model.eval().requires_grad_(False)


def circuit_of(model: Transformer, universe: Universe, edge, values) -> Circuit:
    return Circuit(
        model_hash="",
        task="",
        task_hash="",
        ablation="mean",
        nodes=(),
        edges=universe.edges_of(edge, model.config.d_head),
        kept=universe.kept_by(universe.ends(edge[None])[0]),
        ablation_values=values,
        scale=1.0,
        shift=0.0,
        seed=0,
        target=0.15,
        losses={},
        n_pairs=1,
        n_possible_nodes=0,
        n_possible_edges=0,
        model=model,
    )


def setting(wiring, share=3):
    model, draw = random_model(**wiring), torch.Generator().manual_seed(3)
    widths = node_sites(model.config)
    values = {site: 0.3 * torch.randn(width, generator=draw) for site, width in ablated_sites(model.config).items()}
    kept = {
        site: torch.randperm(width, generator=draw)[: width // share].sort().values for site, width in widths.items()
    }
    universe = Universe.of(model, kept)
    edges = (torch.rand(5, universe.n_edges, generator=draw) < 0.5).float()
    edges[0], edges[1] = 1, 0
    return model, universe, values, edges


@pytest.mark.parametrize("share", [1, 3, 8])
@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_it_answers_as_the_circuit_does(wiring, share):
    model, universe, values, edges = setting(wiring, share)
    pairs = pairs_of_any_length()
    compact = Compact(model, universe, values, pairs)
    edges = universe.supplied(edges)
    found = compact.differences(universe.ends(edges), edges)
    assert found.std() > 0.1
    for edge, differences in zip(edges, found, strict=True):
        expected = pairs.differences(circuit_of(model, universe, edge, values)(pairs.flat))
        torch.testing.assert_close(differences, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_circuits_that_are_long_alike_answer_as_each_alone(wiring):
    """What is alike runs once: the circuit without each edge, in any order, in batches and one by one."""
    model, universe, values, edges = setting(wiring, share=8)
    judge = Judge(model, universe, values, pairs_of_any_length())
    without = edges[2].repeat(universe.n_edges, 1).fill_diagonal_(0)
    without = without[torch.randperm(len(without), generator=torch.Generator().manual_seed(4))]
    alone = torch.cat([judge.differences(edge[None]) for edge in without])
    for judge.chunk in (3, len(without)):
        torch.testing.assert_close(judge.differences(without), alone, atol=1e-5, rtol=1e-5)
    assert (alone != alone[0]).any()


def test_some_pairs_give_the_same_answers_as_among_all():
    model, universe, values, edges = setting({})
    compact = Compact(model, universe, values, pairs_of_any_length())
    which = torch.tensor([4, 1])
    some = compact.differences(universe.ends(edges), edges, which)
    torch.testing.assert_close(some, compact.differences(universe.ends(edges), edges)[:, which])


def test_a_part_of_the_universe_gives_the_same_answers():
    model, universe, values, edges = setting({})
    pairs = pairs_of_any_length()
    edge = edges[2] * edges[3]
    part, _, chosen = universe.part(model, universe.ends(edge[None])[0])
    inner = edge[chosen][None]
    assert inner.sum() == edge.sum() and part.n_nodes < universe.n_nodes
    torch.testing.assert_close(
        Compact(model, part, values, pairs).differences(part.ends(inner), inner),
        Compact(model, universe, values, pairs).differences(universe.ends(edge[None]), edge[None]),
    )


def test_the_universe_has_every_weight_between_its_nodes():
    model, universe, _, _ = setting({}, share=1)
    weights = [p for n, p in model.named_parameters() if p.dim() == 2 and "blocks" in n]
    assert universe.n_edges == sum(int(torch.count_nonzero(w)) for w in weights)
    assert universe.n_nodes == sum(node_sites(model.config).values())


def test_gradients_reach_the_gates_of_nodes_and_edges():
    model, universe, values, edges = setting({})
    compact = Compact(model, universe, values, pairs_of_any_length())
    node, edge = torch.ones(1, universe.n_nodes, requires_grad=True), edges[:1].clone().requires_grad_()
    compact.differences(node, edge).square().sum().backward()
    assert (node.grad != 0).any() and (edge.grad != 0).any()
