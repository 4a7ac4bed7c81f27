"""Pruning recovers a planted circuit exactly: precision and recall 1, of nodes and of edges."""

from __future__ import annotations

import pytest
import torch
from tests.pruning.planted import EDGES, NODES, PlantedTask, planted_model

from openwork.artifacts import load_circuit
from openwork.errors import UserError
from openwork.pruning import PruneConfig, count_possible_edges, prune

QUICK = PruneConfig(steps=150, pairs=32, fixed_pairs=64, validation_pairs=64)


@pytest.fixture(scope="module")
def model():
    return planted_model()


def test_the_planted_model_does_its_task(model):
    pairs = PlantedTask().pairs("held_out", 64)
    with torch.no_grad():
        assert float(pairs.loss(model(pairs.flat))) < 0.1
    assert count_possible_edges(model) == 3 + 4 * 4 + 16


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_planted_circuit_is_found_exactly(model, seed):
    circuit = prune(model, PlantedTask(), seed=seed, config=QUICK)
    assert circuit.reached
    assert set(circuit.nodes) == NODES
    assert {(edge.source, edge.target) for edge in circuit.edges} == EDGES
    assert {edge.weight for edge in circuit.edges} == {1.0, 3.0}


def test_zero_ablation_finds_it_too(model):
    circuit = prune(
        model, PlantedTask(), config=PruneConfig(ablation="zero", steps=150, fixed_pairs=64, validation_pairs=64)
    )
    assert set(circuit.nodes) == NODES


def test_the_best_of_several_seeds_is_kept_and_the_others_are_told(model):
    circuit = prune(model, PlantedTask(), seed=4, seeds=2, config=QUICK)
    assert [line["seed"] for line in circuit.tried] == [4, 5]
    assert all(line["nodes"] >= len(circuit.nodes) for line in circuit.tried if line["reached"])


def test_the_same_seed_gives_the_same_circuit(model, tmp_path):
    for name in "ab":
        prune(model, PlantedTask(), seed=1, config=QUICK).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_circuit_comes_back_and_states_its_loss_again(model, tmp_path):
    circuit = prune(model, PlantedTask(), config=QUICK)
    circuit.save(tmp_path / "c")
    loaded = load_circuit(tmp_path / "c", model)
    assert loaded.nodes == circuit.nodes and loaded.edges == circuit.edges
    assert abs(loaded.loss(PlantedTask()) - circuit.losses["circuit"]) < 1e-6


def test_another_model_or_task_is_refused_and_both_are_named(model, tmp_path):
    prune(model, PlantedTask(), config=QUICK).save(tmp_path / "c")
    other = planted_model()
    with torch.no_grad():
        other.unembed.bias += 1e-3
    with pytest.raises(UserError) as caught:
        load_circuit(tmp_path / "c", other)
    assert model.hash[:12] in str(caught.value) and other.hash[:12] in str(caught.value)

    class Other(PlantedTask):
        name, hash = "other", "f" * 64

    with pytest.raises(UserError, match="of task planted .* not of other"):
        load_circuit(tmp_path / "c", model).loss(Other())


def test_a_task_that_the_model_cannot_do_is_not_passed_off_as_a_circuit(model):
    broken = planted_model()
    with torch.no_grad():
        broken.blocks[0].attn.out.weight[2, 0] = 0
    circuit = prune(broken, PlantedTask(), config=QUICK)
    assert not circuit.reached
    assert circuit.losses["circuit"] > 0.6


def test_mean_ablation_without_means_says_what_to_do(model):
    bare = planted_model()
    bare.means = {}
    with pytest.raises(UserError, match="no mean activations .* --corpus"):
        prune(bare, PlantedTask(), config=QUICK)
