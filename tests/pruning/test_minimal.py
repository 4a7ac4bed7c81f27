"""From rankings to the fewest gates, and calibration, on losses that are known."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.pruning.planted import PlantedTask, planted_model

from openwork.model import node_sites
from openwork.pruning import search
from openwork.pruning.calibration import SCALE_PRICE, calibrate, calibrated_losses
from openwork.pruning.gates import StepGate, gate_of_node
from openwork.pruning.judge import CheckedJudge, Judge
from openwork.pruning.minimal import EXACT, IN_VAIN, _batches, _in_turn, _shorter, eliminate, fewest, roughly
from openwork.pruning.problem import ablation_values
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs


def losses_needing(*needed: set[int]):
    """For each circuit a loss of 0 where all that it needs are open, else 1."""

    def losses_of(is_open):
        return torch.tensor(
            [
                0.0 if need <= set(row.nonzero().flatten().tolist()) else 1.0
                for need, row in zip(needed, is_open, strict=True)
            ]
        )

    return losses_of


def test_bisection_finds_the_shortest_head_of_each_ranking():
    ranking = torch.tensor([[5, 3, 4, 1, 0, 2]] * 4)
    assert fewest(ranking, losses_needing({3, 1}, set(), {2}, {99}), 0.5).tolist() == [4, 0, 6, 7]


def test_calibration_finds_a_shift_and_does_not_run_off_with_the_scale():
    right = torch.tensor([[3.0, 1.0]]).expand(50, 2)  # answer A is favoured by 2 in both members
    scale, shift = (float(x) for x in calibrate(right))
    assert shift == pytest.approx(-2 * scale, rel=0.05)
    assert 1 < scale < 10
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    assert float(calibrated_losses(noise)) <= math.log(2) + 0.01


@pytest.mark.parametrize("offset", [0, -17, 20])
def test_calibration_finds_the_logistic_regression(offset):
    """An independent reference: L-BFGS on the same loss; scales below 1, where no price is paid."""
    draw = torch.Generator().manual_seed(0)
    d = 4 * torch.randn(3, 300, 2, generator=draw, dtype=torch.float64) + torch.tensor([3.0, -1.0]) + offset
    scale, shift = calibrate(d)
    for i in range(3):
        free = torch.tensor([0.1, 0.0], dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([free], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-12)

        def closure(d=d[i], free=free, optimizer=optimizer):
            optimizer.zero_grad()
            loss = Pairs.losses(free[0] * d + free[1])
            loss.backward()
            return loss

        optimizer.step(closure)
        assert 0 < free[0] < 1
        torch.testing.assert_close(torch.stack([scale[i], shift[i]]), free.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("seed", "offset"), [(0, 0), (1, 0), (2, -17), (3, 100)])
def test_calibration_ends_where_loss_and_price_together_are_least(seed, offset):
    """Of answers that are all right: the loss alone would want an infinite scale."""
    apart = torch.rand(20, 2, generator=torch.Generator().manual_seed(seed)).double() + 0.1
    differences = apart * torch.tensor([1.0, -1.0]) + offset
    scale, shift = calibrate(differences)
    log_scale, shift = float(scale.log()), float(shift)

    def priced(log_scale: float, shift: float) -> float:
        return float(Pairs.losses(math.exp(log_scale) * differences + shift)) + SCALE_PRICE * max(0.0, log_scale) ** 2

    least = priced(log_scale, shift)
    assert log_scale > 0
    for a, b in ((0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02), (0.02, 0.02), (-0.02, 0.02)):
        assert priced(log_scale + a, shift + b) > least


def test_calibrating_many_is_calibrating_each():
    d = torch.randn(5, 40, 2, generator=torch.Generator().manual_seed(1)) + torch.tensor([2.0, -1.0])
    together = calibrate(d)
    for i in range(5):
        assert torch.equal(torch.stack(calibrate(d[i])), torch.stack([together[0][i], together[1][i]]))


def test_the_calibrated_loss_has_the_gradient_of_the_best_loss():
    """By finite differences, through the calibration itself."""
    d = (torch.randn(1, 60, 2, generator=torch.Generator().manual_seed(2)) + torch.tensor([1.0, -1.0])).double() * 3
    direction = torch.randn(d.shape, generator=torch.Generator().manual_seed(3)).double()
    moved = d.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(calibrated_losses(moved).sum(), moved)
    step = 1e-4
    slope = (calibrated_losses(d + step * direction) - calibrated_losses(d - step * direction)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-3)


def test_q_and_k_share_their_gates_and_no_others_do():
    kept = {site: torch.arange(2) for site in ("attn.act_in", "attn.q", "attn.k", "attn.v")}
    stretches = {site: slice(2 * i, 2 * i + 2) for i, site in enumerate(kept)}
    none = torch.zeros(0, dtype=torch.int64)
    universe = Universe(kept, stretches, {}, none, none, torch.zeros(0))
    assert gate_of_node(universe).tolist() == [0, 1, 2, 3, 2, 3, 4, 5]


def test_the_step_gate_has_the_sigmoids_derivative():
    tau = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    gate = StepGate.apply(tau)
    assert gate.tolist() == [0, 0, 1]
    gate.sum().backward()
    s = torch.sigmoid(tau.detach())
    torch.testing.assert_close(tau.grad, s * (1 - s))


@pytest.mark.parametrize("needed", [(2, 7), (0,), (9,), (0, 1, 2, 3, 9)])
def test_taken_in_turn_everything_goes_that_can(needed):
    without = 1 - torch.eye(10)
    judge: Any = SimpleNamespace(losses=losses_needing(set(needed)))
    left = _in_turn(judge, torch.ones(10), without, 0.5)
    assert left is not None and left.nonzero().flatten().tolist() == list(needed)


def test_taken_in_turn_nothing_goes_where_all_is_needed():
    judge: Any = SimpleNamespace(losses=losses_needing(set(range(10))))
    assert _in_turn(judge, torch.ones(10), 1 - torch.eye(10), 0.5) is None


def test_taken_in_turn_it_ends_where_many_could_not_go():
    n, needed = 40, set(range(IN_VAIN))
    judge: Any = SimpleNamespace(losses=losses_needing(needed))
    assert _in_turn(judge, torch.ones(n), 1 - torch.eye(n), 0.5) is None
    left = _in_turn(judge, torch.ones(n), (1 - torch.eye(n))[1:], 0.5)
    assert left is not None and set(left.nonzero().flatten().tolist()) == needed


def test_what_could_not_go_before_is_tried_again_at_the_end():
    """Edge 0 can go only after edge 1; edge 1 and edge 3 can go alone, but not both, so that the second round is in
    vain; edge 2 is needed."""

    def losses_of(edges):
        return torch.tensor([0.0 if e[2] and (e[1] or e[3]) and (e[0] or not e[1]) else 1.0 for e in edges])

    universe = SimpleNamespace(source=torch.arange(4), target=torch.arange(4, 8))
    judge: Any = SimpleNamespace(losses=losses_of, lower_bounds=losses_of, slopes=torch.zeros_like, universe=universe)
    judge.within = lambda edge: (judge, edge, torch.arange(4))
    assert eliminate(judge, torch.ones(4), 0.5).tolist() == [0, 0, 1, 1]


def test_a_node_goes_whole_where_its_edges_cannot_go_alone():
    """Edges 0 and 1 leave one node and cancel each other; edge 2 is needed."""

    def losses_of(edges):
        return torch.tensor([0.0 if e[2] and e[0] == e[1] else 1.0 for e in edges])

    universe = SimpleNamespace(source=torch.tensor([0, 0, 1]), target=torch.tensor([2, 3, 4]))
    judge: Any = SimpleNamespace(losses=losses_of, lower_bounds=losses_of, slopes=torch.zeros_like, universe=universe)
    judge.within = lambda edge: (judge, edge, torch.arange(3))
    assert eliminate(judge, torch.ones(3), 0.5).tolist() == [0, 0, 1]


def test_a_rough_clean_up_does_not_believe_the_steepest_promises():
    """Gradients say that the loss falls most without the ten edges that are needed."""
    n, needed = EXACT + 100, set(range(10))
    slopes = torch.full((n,), 0.1)
    slopes[:10] = -1.0
    judge: Any = SimpleNamespace(losses=losses_needing(needed), slopes=lambda edge: slopes)
    judge.within = lambda edge: (judge, edge, torch.arange(n))
    left = roughly(judge, torch.ones(n), 0.5)
    assert needed <= set(left.nonzero().flatten().tolist()) and left.sum() <= EXACT


def by_bounds(losses, bounds):
    """A judge of circuits whose edges all lie between nodes of their own, with lower bounds."""

    def judge(n):
        universe = SimpleNamespace(source=torch.arange(n), target=torch.arange(n, 2 * n))
        made: Any = SimpleNamespace(losses=losses, lower_bounds=bounds, slopes=lambda edge: -torch.arange(float(n)))
        made.universe, made.within = universe, lambda edge: (made, edge, torch.arange(n))
        return made

    return judge


def test_what_could_not_go_is_looked_for_in_later_batches_too():
    """Of 16 edges the flattest, the last ones, and so those of the first of the four batches, are all needed."""
    judged = []

    def losses_of(edges):
        judged.append(len(edges))
        return losses_needing(*[{12, 13, 14, 15}] * len(edges))(edges)

    judge, edge = by_bounds(losses_of, losses_of)(16), torch.ones(16)
    shorter, without = _shorter(judge, edge, _batches(judge, edge, 4), (judge.lower_bounds,), 0.5)
    assert shorter is not None and shorter.tolist() == [*[1] * 10, 0, 0, 1, 1, 1, 1]
    assert [row.argmin().item() for row in without] == [11, 10, 9, 8]
    assert sum(judged) < 16
    edge[:12] = 0
    shorter, without = _shorter(judge, edge, _batches(judge, edge, 4), (judge.lower_bounds,), 0.5)
    assert shorter is None and not len(without)


def test_what_bounds_rule_out_is_not_judged_by_its_loss():
    judged, needed = [], set(range(30))

    def losses_of(edges):
        judged.append(len(edges))
        return losses_needing(*[needed] * len(edges))(edges)

    def bounds(edges):
        return losses_needing(*[needed] * len(edges))(edges)

    assert eliminate(by_bounds(losses_of, bounds)(32), torch.ones(32), 0.5).sum() == 30
    assert sum(judged) < 30


def test_where_bounds_allow_what_losses_do_not_all_that_they_allow_is_judged():
    """By the bounds any of eight edges can go, the first ones best; by the losses the last one alone, of all that
    bounds allow."""

    def losses_of(edges):
        return 1 - (edges[:, :7].sum(1) == 7).float()

    def bounds(edges):
        return (edges * torch.arange(8, 0, -1)).sum(1) / 100

    judge, edge = by_bounds(losses_of, bounds)(8), torch.ones(8)
    assert eliminate(judge, edge, 0.5).tolist() == [1, 1, 1, 1, 1, 1, 1, 0]
    assert eliminate(by_bounds(losses_of, losses_of)(8), edge, 0.5).tolist() == [1, 1, 1, 1, 1, 1, 1, 0]


def test_small_starts_and_the_smallest_of_each_seed_are_cleaned_up():
    large = EXACT + 1
    sizes = [(1, 1), (1, 5), (2, EXACT), (0, large), (2, large), (0, large + 1), (3, 2 * EXACT), (3, 3 * EXACT)]
    rough = [search.Start(seed, torch.ones(size)) for seed, size in sizes]
    kept = [(s.seed, len(s.edge)) for s in search._promising(rough)]
    assert kept == [(1, 1), (1, 5), (2, EXACT), (0, large), (3, 2 * EXACT)]


def checked_by_nothing(monkeypatch):
    """Let `smallest` judge on the fixed pairs alone."""
    monkeypatch.setattr(search, "CheckedJudge", lambda judge, others, most: judge)
    return SimpleNamespace(config=SimpleNamespace(target=0.1), report=lambda line: None, validation=None)


def built(problem, judge, edge, seed):
    return SimpleNamespace(seed=seed, edges=range(int(edge.sum())), reached=True)


def test_the_union_of_two_circuits_is_cleaned_up_too(monkeypatch):
    """Edges 0, 1, 2 do the task, and 3, 4, 5; and so, a little better, do 2 and 3, of which each circuit has one."""
    does = [{0, 1, 2}, {3, 4, 5}, {2, 3}]

    def losses_of(edges):
        open_edges = [set(row.nonzero().flatten().tolist()) for row in edges]
        return torch.tensor([0.01 * len({2, 3} - row) + (not any(one <= row for one in does)) for row in open_edges])

    universe = SimpleNamespace(source=torch.arange(6), target=torch.arange(6, 12), supplied=lambda edge: edge)
    judge: Any = SimpleNamespace(losses=losses_of, lower_bounds=losses_of, slopes=torch.zeros_like, universe=universe)
    judge.within = lambda edge: (judge, edge, torch.arange(6))
    problem: Any = checked_by_nothing(monkeypatch)
    monkeypatch.setattr(search, "build", built)
    starts = [search.Start(0, torch.tensor(row)) for row in ([1.0, 1, 1, 0, 0, 0], [0.0, 0, 0, 1, 1, 1])]
    found = search.smallest(problem, judge, starts)
    assert [len(one.edges) for one in found] == [2]  # what is larger is not made


def test_unions_of_large_circuits_are_taken_before_each_removal_is_tried(monkeypatch):
    """Of the lower or the upper half of the edges none can go; of both together only the first of each is needed."""
    tried, n = [], 2 * (EXACT + 1)

    def rough(judge, edge, target, report):
        both = edge[0] * edge[-1]
        return edge * (1 - both) + both * (torch.tensor([1.0, *[0.0] * (n - 2), 1.0]))

    def trying_each(judge, edge, target, report):
        tried.append(int(edge.sum()))
        return edge

    monkeypatch.setattr(search, "build", built)
    monkeypatch.setattr(search, "roughly", rough)
    monkeypatch.setattr(search, "eliminate", trying_each)
    judge: Any = SimpleNamespace(losses=lambda edges: torch.zeros(len(edges)))
    upper = (torch.arange(n) >= n // 2).float()
    starts = [search.Start(0, upper), search.Start(0, 1 - upper)]
    found = search.smallest(checked_by_nothing(monkeypatch), judge, starts)
    assert [len(one.edges) for one in found] == [2]
    assert tried == [2]


def test_starts_that_miss_the_target_are_not_cleaned_up():
    problem: Any = SimpleNamespace(config=SimpleNamespace(target=0.1))
    judge: Any = SimpleNamespace(losses=lambda edges: edges[:, 0])
    starts = [search.Start(0, torch.tensor([loss, 1.0])) for loss in (0.2, 0.1, 0.05)]
    ends = search._cleaned_up(problem, judge, starts, lambda judge, edge, target, report: edge)
    assert [end.edge[0].item() for end in ends] == pytest.approx([0.05, 0.1])


def test_the_smallest_so_far_is_joined_with_each_of_the_others(monkeypatch):
    """Nothing can go of the first union; of the second one all but an edge can, which is joined with the last end."""
    joined = []

    def by(judge, edge, target, report):
        joined.append(edge.nonzero().flatten().tolist())
        return edge * (torch.arange(6) == 4) if edge[4] else edge

    ends = [
        search.Start(0, torch.zeros(6).index_fill(0, torch.tensor(i), 1.0)) for i in ([0, 1], [2, 3], [3, 4], [5, 0])
    ]
    judge: Any = SimpleNamespace(losses=lambda edges: torch.zeros(len(edges)))
    found = search._with_unions(checked_by_nothing(monkeypatch), judge, ends, by)
    assert joined == [[0, 1, 2, 3], [0, 1, 3, 4], [0, 4, 5]]
    assert found[0].edge.nonzero().flatten().tolist() == [4] and len(found) == 5


def test_every_seed_has_a_circuit_however_small_that_of_another_is(monkeypatch):
    problem: Any = checked_by_nothing(monkeypatch)
    monkeypatch.setattr(search, "build", built)
    monkeypatch.setattr(search, "_cleaned_up", lambda problem, judge, starts, by: starts)
    starts = [search.Start(seed, (torch.arange(5) < n).float()) for seed, n in ((0, 1), (1, 3), (0, 2))]
    judge: Any = None
    found = search.smallest(problem, judge, starts)
    assert [(one.seed, len(one.edges)) for one in found] == [(0, 1), (1, 3)]


def test_a_checked_judge_tells_the_worse_of_two_losses_that_share_a_calibration():
    """The other pairs are asked only where the first loss, of a single pair here, is low enough."""
    task, model = PlantedTask(), planted_model(decoys=True)
    values, pairs, others = ablation_values(model, "mean"), task.pairs("train", 1), task.pairs("validation", 40)
    universe = Universe.of(model, {site: torch.arange(width) for site, width in node_sites(model.config).items()})
    draw = torch.Generator().manual_seed(0)
    edges = (torch.rand(40, universe.n_edges, generator=draw) < torch.linspace(0.5, 1, 40)[:, None]).float()
    judge = Judge(model, universe, values, pairs)
    scale, shift = (x[:, None, None] for x in calibrate(judge.differences(edges)))
    of_others = Pairs.losses(scale * Judge(model, universe, values, others).differences(edges) + shift).float()
    own, most = judge.losses(edges), 0.3
    checked = CheckedJudge(judge, others, most)
    worse = (of_others - own) * (own <= most)
    assert (own > most).any() and worse.max() > 1
    torch.testing.assert_close(checked.losses(edges), torch.where(own <= most, own.maximum(of_others), own))
    assert torch.equal(checked.lower_bounds(edges), own) and torch.equal(judge.lower_bounds(edges), own)
    at = int(worse.argmax())
    inner, edge, _ = checked.within(edges[at])
    torch.testing.assert_close(inner.losses(edge[None]), of_others[at : at + 1], rtol=1e-3, atol=0)
