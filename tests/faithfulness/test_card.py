"""The card on a planted circuit: it passes the right circuit, and says no to wrong ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from math import log
from statistics import stdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.pruning.planted import ANSWER_A, ANSWER_B, PlantedTask, planted_model
from torch import Tensor

from openwork import tasks as openwork_tasks
from openwork.artifacts import Circuit, Edge, load_card
from openwork.errors import UserError
from openwork.faithfulness import checks, random_circuits, random_nodes, verify
from openwork.faithfulness.controls import run
from openwork.model import parse_node
from openwork.models import load_model, path
from openwork.pruning import PruneConfig, ablation_values, edges_between, load_circuit, prune
from openwork.pruning.calibration import calibrate
from openwork.tasks import Pairs


@pytest.fixture(scope="module")
def circuit() -> Circuit:
    config = PruneConfig(steps=150, pairs=32, fixed_pairs=64, validation_pairs=64)
    return prune(planted_model(), PlantedTask(), config=config)


def passed(circuit: Circuit) -> dict[str, bool]:
    return {check.name: check.passed for check in verify(circuit, PlantedTask(), n_pairs=64).checks}


def with_kept(circuit: Circuit, kept: dict[str, list[int]]) -> Circuit:
    tensors = {site: torch.tensor(index) for site, index in kept.items()}
    return replace(circuit, kept=tensors, edges=edges_between(circuit.model, tensors))


def test_the_planted_circuit_passes_every_check(circuit):
    assert list(passed(circuit).items()) == [
        ("sufficiency", True),
        ("held-out templates", True),
        ("necessity", True),
        ("KL to the full model", True),
        ("sufficiency, zero ablation", True),
    ]


def test_a_circuit_of_decoys_fails_every_check(circuit):
    decoys = with_kept(
        circuit, {"0.attn.act_in": [4, 5], "0.attn.q": [4], "0.attn.k": [4], "0.attn.v": [4], "0.attn.resid_delta": [7]}
    )
    assert not any(passed(decoys).values())


def test_the_whole_model_is_sufficient_but_so_are_random_circuits_of_its_size(circuit):
    """A control that does the task as well must make the check fail, however low the circuit's own loss."""
    everything = with_kept(circuit, {site: list(range(len(v))) for site, v in circuit.ablation_values.items()})
    everything = replace(everything, scale=1.0, shift=0.0)
    card = verify(everything, PlantedTask(), n_pairs=64)
    sufficiency = next(check for check in card.checks if check.name == "sufficiency")
    assert sufficiency.value <= everything.target
    assert not sufficiency.passed and not card.passed


def test_half_a_circuit_is_not_sufficient(circuit):
    kept = {site: index for site, index in circuit.kept.items() if not site.endswith(("attn.q", "attn.k"))}
    assert not passed(replace(circuit, kept=kept))["sufficiency"]


def test_every_number_of_the_card_by_its_definition(circuit):
    """Of a circuit that looks everywhere alike, so that not all answers are right, beside controls that know some."""
    kept = {site: sorted({*index.tolist(), 0, 2, 4, 5}) for site, index in circuit.kept.items()}
    ours = with_kept(circuit, kept)
    blind = tuple(edge for edge in ours.edges if ".k." not in edge.target)
    ours = replace(ours, edges=blind, scale=0.7, shift=0.4)
    task, model = PlantedTask(), circuit.model
    card = verify(ours, task, n_random=6, n_pairs=32, seed=2)
    validation, held_out = task.pairs("validation", 32, seed=1), task.pairs("held_out", 32)
    circuits = [ours, *random_circuits(ours, 6, seed=2, answers=validation.right.unique())]
    zero = {**circuit.ablation_values, **ablation_values(model, "zero")}

    @torch.no_grad()
    def answers(run: Callable[[Tensor], Tensor], pairs: Pairs) -> Tensor:
        """(n, 2, d_vocab): the log probabilities where the answer is due, prompt by prompt."""
        logits = [
            [run(prompt[None])[0, last] for prompt in pair] for pair, last in zip(pairs.tokens, pairs.last, strict=True)
        ]
        return torch.stack([torch.stack(pair) for pair in logits]).log_softmax(-1)

    def difference(log_p: Tensor) -> Tensor:
        return log_p[..., ANSWER_A] - log_p[..., ANSWER_B]

    def loss(difference: Tensor, scale: float, shift: float) -> float:
        right = (scale * difference + shift) * torch.tensor([1, -1])
        return float(-right.sigmoid().log().mean())

    def best(difference: Tensor) -> tuple[float, float]:
        scale, shift = calibrate(difference)
        return float(scale), float(shift)

    full, want = answers(model, validation), {name: [] for name in passed(circuit)}
    for number, one in enumerate(circuits):
        on_validation, on_held_out = answers(one, validation), answers(one, held_out)
        scaled = (0.7, 0.4) if number == 0 else best(difference(on_validation))
        want["sufficiency"].append(loss(difference(on_validation), *scaled))
        want["held-out templates"].append(loss(difference(on_held_out), *scaled))
        want["KL to the full model"].append(float((full.exp() * (full - on_validation)).sum(-1).mean()))
        otherwise = difference(answers(replace(one, ablation_values=zero), validation))
        want["sufficiency, zero ablation"].append(loss(otherwise, *best(otherwise)))
    for one in [ours, *random_nodes(ours, 6, seed=2)]:
        without = difference(answers(lambda x, one=one: model.run(x, edit=one.edits(complement=True))[0], validation))
        want["necessity"].append(loss(without, *best(without)))
    assert len({f"{numbers[0]:.2f}" for numbers in want.values()}) == 5  # none can stand for another
    for check in card.checks:
        assert [check.value, *check.detail["random"]] == pytest.approx(want[check.name], abs=1e-4), check.name
    of_necessity, of_kl = card.checks[2:4]
    without = answers(lambda x: model.run(x, edit=ours.edits(complement=True))[0], validation)
    assert of_necessity.detail["uncalibrated"] == pytest.approx(loss(difference(without), 1, 0), abs=1e-4)
    ablated = answers(with_kept(circuit, {}), validation)
    assert of_kl.control == pytest.approx(float((full.exp() * (full - ablated)).sum(-1).mean()), abs=1e-4)
    assert of_kl.detail["uniform"] == pytest.approx(float((full.exp() * full).sum(-1).mean()) + log(15), abs=1e-4)


def test_losses_by_template_are_parts_of_the_check_the_worst_first_beside_the_models():
    model = load_model("reference-sparse")
    task = openwork_tasks.get("with_as", model.tokenizer)
    circuit = load_circuit(path("reference-sparse") / "circuits" / "with_as.circuit", model)
    ours, pairs = run(circuit, task.pairs("validation", 4)), task.pairs("held_out", 24)
    check = checks.held_out(ours, [ours], pairs)
    rows = check.detail["templates"]
    assert {row["template"] for row in rows} <= set(task.source.form.held_out)
    assert sum(row["pairs"] for row in rows) == 24
    assert sum(row["pairs"] * row["circuit"] for row in rows) / 24 == pytest.approx(check.value, abs=1e-5)
    assert [row["circuit"] for row in rows] == sorted((row["circuit"] for row in rows), reverse=True)
    for row in rows:
        of = [i for i, template in enumerate(pairs.templates) if template == row["template"]]
        alone = Pairs(*(x[of] for x in (pairs.tokens, pairs.last, pairs.right, pairs.wrong)), prompts=((),) * len(of))
        losses = [alone.loss(circuit(alone.flat), circuit.scale, circuit.shift), alone.loss(model(alone.flat))]
        assert [row["circuit"], row["model"]] == pytest.approx([x.item() for x in losses], abs=1e-4)


def stand_in(value: float) -> Any:
    """Of a run, that which a check decides by."""
    pairs = SimpleNamespace(flat=None, due=None, templates=())
    model = SimpleNamespace(run=lambda tokens, due: (torch.zeros(1, 2), {}))
    circuit = SimpleNamespace(model=model, ablation="mean", target=0.15, value=value)
    return SimpleNamespace(circuit=circuit, pairs=pairs, loss=value, standard_error=0.0)


@pytest.mark.parametrize(
    ("value", "random", "passes"),
    [
        (0.15, [0.9, 0.5, 0.6], True),
        (0.151, [0.9, 0.5, 0.6], False),
        (0.0, [0.9, 0.49, 0.6], False),  # one control that does the task is enough
    ],
)
def test_a_circuit_is_sufficient_where_it_does_the_task_and_no_control_does(value, random, passes, monkeypatch):
    check = checks.sufficiency(stand_in(value), [stand_in(loss) for loss in random])
    assert (check.passed, check.value, check.control) == (passes, value, min(random))
    assert check.threshold == "<= 0.15, random >= 0.5"
    monkeypatch.setattr(checks, "run", lambda circuit, pairs: stand_in(circuit.value))
    check = checks.held_out(stand_in(value + 0.1), [stand_in(loss) for loss in random], stand_in(0).pairs)
    assert (check.passed, check.threshold) == (passes, "<= 0.25, random >= 0.5")


@pytest.mark.parametrize(
    ("value", "random", "passes"),
    [
        (0.5, [0.1, 0.9, 0.49], True),  # one control may hit a node of the circuit
        (0.49, [0.1, 0.1, 0.1], False),
        (0.9, [0.1, 0.9, 0.5], False),
    ],
)
def test_a_circuit_is_necessary_where_the_task_breaks_and_mostly_does_not_without_controls(
    value, random, passes, monkeypatch
):
    monkeypatch.setattr(
        checks, "differences_without", lambda one, pairs: torch.tensor([[one.value]], dtype=torch.float64)
    )
    monkeypatch.setattr(checks, "calibrated_losses", lambda differences: differences[:, 0, 0])
    check = checks.necessity(stand_in(value), [stand_in(loss).circuit for loss in random])
    assert (check.passed, check.value, check.control) == (
        passes,
        value,
        sorted(random)[1],
    )
    assert check.detail["random_worst"] == max(random)


def test_what_shifts_all_answers_alike_has_not_taken_them_away(circuit):
    pairs = PlantedTask().pairs("validation", 32)
    shifted = torch.tensor([[9.0, 5.0]]).expand(32, 2)  # B is no longer answered, and still told apart
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "differences_without", lambda one, pairs: shifted)
        check = checks.necessity(run(circuit, pairs), [circuit])
    assert check.detail["uncalibrated"] > 2 and check.value < 0.3 and not check.passed


@pytest.mark.parametrize(("nearer", "passes"), [(0.3, True), (0.01, False), (-0.3, False)])
def test_a_circuit_is_near_the_model_where_it_is_nearer_than_nothing_by_two_standard_errors(
    circuit, nearer, passes, monkeypatch
):
    ours = run(circuit, PlantedTask().pairs("validation", 32))
    noise = torch.randn(32, generator=torch.Generator().manual_seed(0))
    noise = (noise - noise.mean()) / noise.std() * 32**0.5 / 10  # of standard error 0.1
    nothing = [2 + noise, torch.full((32,), 5.0), torch.full((32,), 7.0)]  # all ablated, one random circuit, uniform
    kls = iter([torch.full((32,), 2 - nearer), *nothing])
    monkeypatch.setattr(checks, "_kl", lambda full, logits: next(kls))
    check = checks.divergence(ours, [ours])
    assert (check.passed, check.threshold) == (passes, "< control - 2 s.e.")
    numbers = [
        check.value,
        check.control,
        *(check.detail[name] for name in ("standard_error", "random_median", "uniform")),
    ]
    assert numbers == pytest.approx([2 - nearer, 2, 0.1, 5, 7])


def test_where_a_task_has_no_pairs_but_those_of_the_search_the_card_says_so(circuit):
    class Few(PlantedTask):
        def pairs(self, split, n, seed=0):
            few = super().pairs(split, 12)
            return few.rows(i % 12 for i in range(n))

    seen, others = (verify(circuit, task(), n_pairs=64, n_random=2).checks[0] for task in (Few, PlantedTask))
    assert "that its search has seen" in seen.question and "seen" not in others.question
    ours = run(circuit, PlantedTask().pairs("validation", 12))
    assert seen.detail["standard_error"] == pytest.approx(ours.standard_error, rel=1e-4)  # not of 64

    class HalfSeen(PlantedTask):
        def pairs(self, split, n, seed=0):
            return super().pairs(split, 24).rows(range(12) if seed == 0 else range(6, 24))

    half = verify(circuit, HalfSeen(), n_pairs=64, n_random=2).checks[0]
    ours = run(circuit, PlantedTask().pairs("validation", 24).rows(range(12, 24)))
    assert half.value == pytest.approx(ours.loss, rel=1e-4) and "seen" not in half.question


@pytest.mark.parametrize("draw", [random_circuits, random_nodes])
def test_controls_are_many_and_the_same_each_time(circuit, draw):
    drawn, again = draw(circuit, 20, seed=1), draw(circuit, 20, seed=1)
    for control in drawn:
        assert torch.equal(control.kept["0.attn.q"], control.kept["0.attn.k"])
    assert len({tuple(control.kept["0.attn.act_in"].tolist()) for control in drawn}) > 5
    assert all(torch.equal(a.kept[s], b.kept[s]) for a, b in zip(drawn, again, strict=True) for s in a.kept)


def test_two_standard_errors_of_the_pairs_are_allowed(circuit):
    task, ours = PlantedTask(), replace(circuit, scale=0.7, shift=0.4)
    one = run(ours, task.pairs("validation", 32))
    each = [
        float(replace(one.pairs, right=one.pairs.right[i : i + 1]).loss(one.logits[2 * i : 2 * i + 2], 0.7, 0.4))
        for i in range(32)
    ]
    assert one.standard_error == pytest.approx(stdev(each) / 32**0.5, rel=1e-3)
    for above, passes in ((1.9, True), (2.1, False)):
        stated = stand_in(0.15 + above * 0.01)
        stated.standard_error = 0.01
        check = checks.sufficiency(stated, [stand_in(0.7)])
        assert (check.passed, check.threshold) == (passes, "<= 0.15 + 2 s.e., random >= 0.5")


def test_random_nodes_are_as_many_at_every_site(circuit):
    for control in random_nodes(circuit, 20, seed=1):
        assert {s: len(i) for s, i in control.kept.items()} == {s: len(i) for s, i in circuit.kept.items()}


def test_random_circuits_have_as_many_weights_of_every_matrix_on_ways_to_what_the_answers_read():
    """In the reference model, where hardly any weight joins nodes that are drawn at random."""
    model = load_model("reference-sparse")
    circuit = load_circuit(path("reference-sparse") / "circuits/single_double_quote.circuit", model)
    answers = openwork_tasks.get("single_double_quote", model.tokenizer).pairs("validation", 1).right[0]
    drawn = random_circuits(circuit, 20, answers=answers)

    def into(edges: Iterable[Edge]) -> dict[str, list[Edge]]:
        by_site: dict[str, list[Edge]] = {}
        for edge in edges:
            by_site.setdefault(parse_node(edge.target, model.config.d_head)[0], []).append(edge)
        return by_site

    assert len({control.edges for control in drawn}) == 20 and circuit.edges not in {one.edges for one in drawn}
    for control in drawn:
        edges = into(control.edges)
        assert {site: len(those) for site, those in edges.items()} == {
            site: len(those) for site, those in into(circuit.edges).items()
        }
        assert set(control.edges) <= set(edges_between(model, control.kept))
        written = {parse_node(edge.target, model.config.d_head)[1] for edge in edges["2.attn.resid_delta"]}
        read = {parse_node(edge.source, model.config.d_head)[1] for edge in edges["2.mlp.post_act"]}
        assert (model.unembed.weight[answers][:, sorted(written - read)] != 0).any(0).all()
        assert {edge.target for edge in edges["2.attn.v"]} & {edge.source for edge in edges["2.attn.resid_delta"]}


def test_full_gates_are_the_model_and_the_complement_of_all_is_all_ablated(circuit):
    everything = with_kept(circuit, {site: list(range(len(v))) for site, v in circuit.ablation_values.items()})
    pairs, model = PlantedTask().pairs("validation", 8), circuit.model
    with torch.no_grad():
        assert torch.equal(everything(pairs.flat), model(pairs.flat))
        nothing = with_kept(circuit, {})
        ablated = model.run(pairs.flat, edit=everything.edits(complement=True))[0]
        assert torch.equal(ablated, nothing(pairs.flat))
        assert torch.equal(model.run(pairs.flat, edit=nothing.edits(complement=True))[0], model(pairs.flat))


def test_the_card_is_deterministic_and_comes_back(circuit, tmp_path):
    card = verify(circuit, PlantedTask(), n_pairs=64, seed=3)
    assert card == verify(circuit, PlantedTask(), n_pairs=64, seed=3)
    card.save(tmp_path / "card.json")
    assert load_card(tmp_path / "card.json") == card
    assert all(len(check.detail["random"]) == 20 for check in card.checks)


def test_a_circuit_without_its_model_or_task_is_refused(circuit):
    with pytest.raises(UserError, match="has no model to run on"):
        verify(replace(circuit, model=None), PlantedTask())

    class Other(PlantedTask):
        name, hash = "other", "e" * 64

    with pytest.raises(UserError, match="is of task planted"):
        verify(circuit, Other())
