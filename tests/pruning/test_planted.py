"""Pruning recovers planted circuits: precision and recall of edges 1 without decoys and copies, at least 0.9 with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.pruning.planted import EDGES, NODES, PlantedTask, planted_edges, planted_model

from openwork.artifacts import load_tensors, read_circuit
from openwork.errors import UserError
from openwork.model import node_sites
from openwork.pruning import PruneConfig, baselines, count_possible_edges, prune, prune_to_targets, search
from openwork.pruning.attribution import magnitude
from openwork.pruning.calibration import calibrate, calibrated_losses
from openwork.pruning.halving import learn_edges, learn_nodes
from openwork.pruning.problem import Problem, ablation_values, frozen
from openwork.pruning.search import shortlist

QUICK = PruneConfig(steps=60, k_coefs=(1e-3, 1e-2), pairs=16, fixed_pairs=64, validation_pairs=64)


@pytest.fixture(scope="module")
def model():
    return planted_model()


@pytest.fixture(scope="module")
def circuit(model):
    """The circuit of that model, searched once for all tests that only look at it."""
    return prune(model, PlantedTask(), config=QUICK)


def problem_of(model, config):
    return Problem(model, PlantedTask(), ablation_values(model, config.ablation), config, lambda line: None)


def found_edges(circuit):
    return {(edge.source, edge.target) for edge in circuit.edges}


@pytest.mark.parametrize("kind", ["head", "mlp", "two_hops"])
def test_the_planted_models_do_their_task(kind):
    for copies in (1, 2):
        model, pairs = planted_model(kind, copies=copies), PlantedTask(kind).pairs("held_out", 64)
        with torch.no_grad():
            assert float(calibrated_losses(pairs.differences(model(pairs.flat)))) < 0.1


def test_the_planted_circuit_lies_among_many_more_weights(model):
    assert count_possible_edges(model) > 10 * len(EDGES)


@pytest.mark.parametrize("kind", ["head", "mlp", "two_hops"])
def test_without_decoys_every_edge_is_found_and_no_other(kind):
    circuit = prune(planted_model(kind, decoys=False), PlantedTask(kind), config=QUICK)
    assert circuit.reached
    assert found_edges(circuit) == planted_edges(kind)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("copies", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["head", "mlp", "two_hops"])
def test_among_decoys_and_copies_one_whole_copy_is_found(kind, copies, seed):
    circuit = prune(planted_model(kind, copies=copies), PlantedTask(kind), seed=seed, config=QUICK)
    found, planted = found_edges(circuit), [planted_edges(kind, copy) for copy in range(copies)]
    assert circuit.reached
    assert len(found & set.union(*planted)) / len(found) >= 0.9
    assert max(len(found & one) / len(one) for one in planted) >= 0.9


def test_the_nodes_are_the_ends_of_the_edges_and_the_query_of_each_key(circuit):
    ends = {name for edge in circuit.edges for name in edge[:2]}
    assert set(circuit.nodes) == NODES == ends | {"0.attn.q.head0.ch0"}
    assert {edge.weight for edge in circuit.edges} == {1.0, 3.0}


def test_a_search_learns_from_training_pairs_and_every_seed_from_its_own(model):
    """It stops, and chooses among circuits, by the validation pairs of the stated loss; a card asks on others."""
    asked: list[tuple[str, int, int]] = []

    class Watched(PlantedTask):
        def pairs(self, split, n, seed=0):
            asked.append((split, n, seed))
            return super().pairs(split, n, seed)

    of_seed = {}
    for seed in (0, 1):
        asked.clear()
        prune(model, Watched(), seed=seed, config=replace(QUICK, validation_pairs=77))
        assert {call for call in asked if call[0] != "train"} == {("validation", 77, 0)}
        of_seed[seed] = {call[2] for call in asked if call[0] == "train"}
    assert len(of_seed[0]) > 2 and not of_seed[0] & of_seed[1]


def test_a_target_that_nothing_at_all_meets_gives_an_empty_circuit(model):
    circuit = prune(model, PlantedTask(), config=replace(QUICK, target=10.0))
    assert circuit.reached and not circuit.edges and not circuit.nodes


def test_no_edge_and_no_node_can_go(circuit):
    """Local minimality, judged by running the circuit itself without each edge and without each node."""
    task = PlantedTask()
    pairs, others = task.pairs("train", QUICK.fixed_pairs, seed=4_000_000), task.pairs("validation", circuit.n_pairs)

    @torch.no_grad()
    def loss_with(edges):
        without = replace(circuit, edges=edges)
        scale, shift = calibrate(pairs.differences(without(pairs.flat)))
        return max(float(p.loss(without(p.flat), scale, shift)) for p in (pairs, others))

    assert loss_with(circuit.edges) <= circuit.target
    for edge in circuit.edges:
        assert loss_with(tuple(other for other in circuit.edges if other != edge)) > circuit.target
    for node in {name for edge in circuit.edges for name in edge[:2]}:
        assert loss_with(tuple(edge for edge in circuit.edges if node not in edge[:2])) > circuit.target


@pytest.mark.parametrize("decoys", [False, True])
def test_what_does_the_task_on_the_fixed_pairs_alone_is_no_circuit(decoys):
    """Two of the three weights are enough for a single fixed pair."""
    circuit = prune(planted_model(decoys=decoys), PlantedTask(), config=replace(QUICK, fixed_pairs=1))
    assert circuit.reached and found_edges(circuit) == EDGES


@pytest.mark.parametrize("kind", ["head", "mlp", "two_hops"])
def test_zero_ablation_finds_it_too(kind):
    circuit = prune(planted_model(kind), PlantedTask(kind), config=replace(QUICK, ablation="zero"))
    assert circuit.reached and found_edges(circuit) == planted_edges(kind)


def test_the_best_of_several_seeds_is_kept_and_the_others_are_told(model):
    circuit = prune(model, PlantedTask(), seed=4, seeds=2, config=QUICK)
    assert [line["seed"] for line in circuit.tried] == [4, 5]
    assert all(line["edges"] >= len(circuit.edges) for line in circuit.tried if line["reached"])


@pytest.mark.parametrize("decoys", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_seeds_that_find_the_same_circuit_are_all_told_of_it(decoys):
    circuit = prune(planted_model(decoys=decoys), PlantedTask(), seeds=3, config=QUICK)
    assert [(line["reached"], line["edges"]) for line in circuit.tried] == [(True, len(EDGES))] * 3


def test_the_same_seed_gives_the_same_circuit(model, circuit, tmp_path):
    for name, found in (("a", circuit), ("b", prune(model, PlantedTask(), config=QUICK))):
        found.save(tmp_path / name)
    (tensors_a, header_a), (tensors_b, header_b) = (load_tensors(tmp_path / name, "circuit") for name in "ab")
    assert header_a == header_b and tensors_a.keys() == tensors_b.keys()
    assert all(torch.equal(tensors_a[name], tensors_b[name]) for name in tensors_a)


def test_a_circuit_comes_back_and_states_its_loss_again(model, circuit, tmp_path):
    circuit.save(tmp_path / "c")
    loaded = read_circuit(tmp_path / "c", model)
    assert loaded.nodes == circuit.nodes and loaded.edges == circuit.edges
    assert abs(loaded.loss(PlantedTask()) - circuit.losses["circuit"]) < 1e-6


def test_another_model_or_task_is_refused_and_both_are_named(model, circuit, tmp_path):
    circuit.save(tmp_path / "c")
    other = planted_model()
    with torch.no_grad():
        other.unembed.bias += 1e-3
    with pytest.raises(UserError) as caught:
        read_circuit(tmp_path / "c", other)
    assert model.hash[:12] in str(caught.value) and other.hash[:12] in str(caught.value)

    class Other(PlantedTask):
        name, hash = "other", "f" * 64

    with pytest.raises(UserError, match="of task planted .* not of other"):
        read_circuit(tmp_path / "c", model).loss(Other())


def test_a_task_that_the_model_cannot_do_is_not_passed_off_as_a_circuit():
    broken = planted_model(decoys=False)
    with torch.no_grad():
        broken.blocks[0].attn.out.weight.zero_()
    circuit = prune(broken, PlantedTask(), config=QUICK)
    assert not circuit.reached
    assert circuit.losses["circuit"] > 0.6


def test_mean_ablation_without_means_says_what_to_do():
    bare = planted_model()
    bare.means = {}
    with pytest.raises(UserError, match="no mean activations .* --corpus"):
        prune(bare, PlantedTask(), config=QUICK)


def test_where_learning_gives_up_too_much_the_search_goes_on_with_more_but_not_with_all(model, monkeypatch):
    sizes, smallest, shortlist = [], search.smallest, search.shortlist

    def given_up_at_first(problem, judge, starts):
        sizes.append(judge.universe.n_edges)
        return smallest(problem, judge, [replace(s, edge=s.edge * (len(sizes) > 2)) for s in starts])

    def the_first_size(problem, seed):
        universe = shortlist(problem, seed)
        sizes.append(universe.n_edges)
        return universe

    monkeypatch.setattr(search, "smallest", given_up_at_first)
    monkeypatch.setattr(search, "shortlist", the_first_size)
    circuit = prune(model, PlantedTask(), config=QUICK)
    assert circuit.reached
    assert len(sizes) == 3 and sizes[2] < sizes[0] < count_possible_edges(model), sizes


def test_a_price_that_closes_every_edge_does_not_end_the_search(model):
    """Each trial goes on with all prices of an edge, of which the lowest lets it keep what it needs."""
    found = {}
    for prices in ((1000.0,), (1000.0, 1.0)):
        problem = problem_of(model, replace(QUICK, edge_prices=prices))
        universe, trials, _ = learn_nodes(problem, shortlist(problem, 0), (0,))
        edges, trials, between = learn_edges(problem, universe, trials)
        assert len(trials.tau) == len(prices) * len(between)
        losses = problem.judge(edges, problem.pairs(64, 4, 0)).losses((trials.tau > 0).float())
        found[len(prices)] = int((losses < QUICK.target).sum())
    assert found[1] == 0 < found[2], found


def test_the_stated_losses_are_those_of_the_validation_pairs(model, circuit):
    pairs = PlantedTask().pairs("validation", QUICK.validation_pairs)
    with torch.no_grad():
        assert circuit.losses["unpruned"] == pytest.approx(float(pairs.loss(model(pairs.flat))), rel=1e-3, abs=0)
        uncalibrated = float(pairs.loss(circuit(pairs.flat)))
        calibrated = float(pairs.loss(circuit(pairs.flat), circuit.scale, circuit.shift))
    assert circuit.losses["circuit_uncalibrated"] == pytest.approx(uncalibrated, rel=1e-3, abs=0)
    assert circuit.losses["circuit"] == pytest.approx(calibrated, rel=1e-3, abs=0)


@pytest.mark.slow
def test_a_looser_target_never_needs_more(model):
    circuits = prune_to_targets(model, PlantedTask(), [0.3, 0.1], config=QUICK)
    assert [circuit.target for circuit in circuits] == [0.1, 0.3]
    assert len(circuits[0].edges) >= len(circuits[1].edges)


def test_the_circuit_of_a_stricter_target_serves_where_a_looser_one_finds_a_larger(model, circuit, monkeypatch):
    fewer = replace(circuit, edges=circuit.edges[:-1])

    def larger_for_looser(*_, config, **__):
        found = fewer if config.target < 0.2 else circuit
        return replace(found, target=config.target, losses={"circuit": 0.05}, tried=({"target": config.target},))

    monkeypatch.setattr("openwork.pruning.curve.prune", larger_for_looser)
    circuits = prune_to_targets(model, PlantedTask(), [0.3, 0.1, 0.3], config=QUICK)
    assert [(circuit.target, circuit.edges) for circuit in circuits] == [(0.1, fewer.edges), (0.3, fewer.edges)]
    assert [circuit.tried[0]["target"] for circuit in circuits] == [0.1, 0.1]  # the search that found it


def test_a_circuit_says_of_how_many_nodes_and_edges_it_was_chosen(model, circuit):
    assert circuit.n_possible_edges == count_possible_edges(model)
    assert circuit.n_possible_nodes == sum(node_sites(circuit.model.config).values())


def test_a_search_leaves_what_had_gradients_and_what_had_none_as_it_was():
    model = planted_model()
    first, *others = model.parameters()
    first.requires_grad_(False)
    with frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not first.requires_grad and all(parameter.requires_grad for parameter in others)


def test_a_baseline_says_where_even_all_nodes_miss_the_target(model):
    rows = baselines(model, PlantedTask(), config=replace(QUICK, target=1e-9))
    assert not any(row["reached"] for row in rows)
    assert all(row["loss"] > 1e-9 for row in rows)


def test_baselines_of_another_seed_are_measured_on_other_pairs(model):
    all_nodes = [baselines(model, PlantedTask(), seed=seed, config=replace(QUICK, target=1e-9))[0] for seed in (0, 1)]
    assert all_nodes[0]["nodes"] == all_nodes[1]["nodes"] and all_nodes[0]["loss"] != all_nodes[1]["loss"]


def test_magnitudes_are_of_the_prompts_and_not_of_what_fills_them_up(model):
    pairs, values = PlantedTask().pairs("train", 4), ablation_values(model, "mean")
    short = replace(pairs, last=torch.tensor([3, 8, 8, 1]))
    found, acts = [], model.run(pairs.flat, record=list(node_sites(model.config)))[1]
    for site, x in acts.items():
        rows = torch.cat([row[: last + 1] for row, last in zip(x, short.due.tolist(), strict=True)])
        found.append((rows - values[site]).abs().mean(0))
    torch.testing.assert_close(magnitude(model, values, short), torch.cat(found))


def test_prompts_longer_than_the_context_are_refused_before_any_work(model, monkeypatch):
    monkeypatch.setattr("openwork.pruning.search.shortlist", None)
    monkeypatch.setattr(model, "config", replace(model.config, n_ctx=8))
    for find in (prune, baselines):
        with pytest.raises(UserError, match="prompts of 9 tokens, more than the model's context of 8; train with"):
            find(model, PlantedTask(), config=QUICK)


def test_no_searches_and_a_target_that_is_no_number_are_refused_before_any_work(model, monkeypatch):
    monkeypatch.setattr("openwork.pruning.curve.prune", pytest.fail)
    with pytest.raises(UserError, match="0 searches"):
        prune(model, PlantedTask(), seeds=0)
    with pytest.raises(UserError, match="target is nan"):
        prune_to_targets(model, PlantedTask(), [0.7, float("nan")])


@pytest.mark.parametrize("setting", [{"k_coefs": (1e300,)}, {"edge_prices": (1e300,)}, {"learning_rate": 1e300}])
def test_settings_too_large_for_a_float_are_told(model, setting):
    with pytest.raises(UserError, match="gates are not finite any more .* lower prune.k_coefs"):
        prune(model, PlantedTask(), config=replace(QUICK, **setting))


def test_baselines_need_more_than_the_search(model, circuit):
    rows = {row["method"]: row for row in baselines(model, PlantedTask(), config=QUICK)}
    assert set(rows) == {"attribution", "magnitude", "random"}
    assert all(row["reached"] and row["loss"] <= QUICK.target for row in rows.values())
    assert rows["random"]["edges"] > len(circuit.edges) <= rows["attribution"]["edges"]
    assert rows["attribution"]["nodes"] < rows["magnitude"]["nodes"] < rows["random"]["nodes"]  # the best come first


def test_baselines_do_the_task_on_the_validation_pairs_too():
    """For a single fixed pair two of the three weights would be enough."""
    rows = baselines(planted_model(decoys=True), PlantedTask(), config=replace(QUICK, fixed_pairs=1))
    assert all(row["reached"] and row["edges"] >= len(EDGES) for row in rows)
