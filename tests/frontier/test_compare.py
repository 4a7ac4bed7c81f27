"""Sparse against dense: what counts, what is taken up again, and the numbers by hand."""

from __future__ import annotations

import math
import sys

import pytest

from openwork.errors import UserError
from openwork.frontier import Comparison, compare, draw_comparison
from openwork.frontier.compare import Found
from openwork.pruning import PruneConfig, prune
from tests.pruning.planted import PlantedTask, planted_model

MODULE = sys.modules["openwork.frontier.compare"]  # the package's `compare` is the function
QUICK = PruneConfig(steps=30, k_coefs=(1e-3, 1e-2), pairs=8, fixed_pairs=32, validation_pairs=32)


def by_hand(reached: bool = True) -> Comparison:
    sizes = {("sparse", "a"): (2, 3), ("dense", "a"): (20, 30), ("sparse", "b"): (8, 5), ("dense", "b"): (20, 10)}
    found = [
        Found(side, task, 0, reached or task == "a", 0.1, nodes, edges)  # pyright: ignore
        for (side, task), (edges, nodes) in sizes.items()
    ]
    return Comparison(0.15, {"a": (0.1, 0.01), "b": (0.0, 0.1), "c": (0.2, 0.0)}, tuple(found))


def test_means_and_ratios_by_hand():
    found = by_hand()
    assert found.tasks == ("a", "b")  # c is beyond the sparse model
    assert found.mean("sparse", "edges", 0) == pytest.approx(math.sqrt(2 * 8))
    assert found.ratio("edges", 0) == pytest.approx(20 / 4)
    assert found.ratio("nodes", 0) == pytest.approx(math.sqrt(30 * 10) / math.sqrt(3 * 5))


def test_a_task_whose_target_was_missed_is_named_and_in_no_mean():
    found = by_hand(reached=False)
    assert found.failed(0) == ("b",)
    assert found.ratio("edges", 0) == pytest.approx(10)
    assert found.means()[0]["failed"] == "b"
    rows = {row["task"]: row for row in found.rows()}
    assert rows["b"]["missed"] == "sparse 0.100, dense 0.100" and rows["a"]["missed"] == ""
    assert rows["a"]["edges"] == "2 / 20" and rows["a"]["times"] == 10 and rows["c"]["unpruned"] == "0.200 / 0.000"
    assert rows["c"]["edges"] == rows["c"]["times"] == ""
    assert found.summary()["means"][0]["tasks"] == ["a"]
    assert not {"missed", "failed"} & {*by_hand().rows()[0], *by_hand().means()[0]}  # no column in which nothing stands


def test_one_model_that_missed_is_enough_and_no_edge_counts_as_one():
    def found(side, task, edges, reached=True):
        return Found(side, task, 0, reached, 0.1, 4, edges)

    every = [found("sparse", "a", 0), found("dense", "a", 7), found("sparse", "b", 3), found("dense", "b", 9, False)]
    compared = Comparison(0.15, {"a": (0.1, 0.1), "b": (0.1, 0.1)}, tuple(every))
    assert compared.failed(0) == ("b",)
    assert compared.mean("sparse", "edges", 0) == 1 and compared.ratio("edges", 0) == pytest.approx(7)


def test_the_figure_is_drawn(tmp_path):
    draw_comparison(by_hand(reached=False), tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def planted(monkeypatch):
    """The planted task under the name of one of ours; `searched` counts searches."""
    searched, prune = [], MODULE.prune
    monkeypatch.setattr(MODULE, "_check", lambda *asked: None)  # the planted model has no tokenizer
    monkeypatch.setattr(MODULE, "_losses", lambda model, side, names, report: dict.fromkeys(names, 0.01))
    monkeypatch.setattr(MODULE.tasks, "get", lambda name, tokenizer: PlantedTask("mlp"))
    monkeypatch.setattr(MODULE, "prune", lambda *a, **k: searched.append(k["seed"]) or prune(*a, **k))
    return searched


@pytest.mark.slow
def test_what_was_found_is_not_looked_for_again(planted, tmp_path):
    models = planted_model("mlp", decoys=False), planted_model("mlp")
    first = compare(*models, tmp_path, names=["one"], seeds=(0, 1), config=QUICK)
    assert planted == [0, 1, 0, 1] and first.seeds == (0, 1)
    assert first.of("sparse", "one", 0).edges == 2
    assert compare(*models, tmp_path, names=["one"], seeds=(0, 1), config=QUICK) == first
    assert len(planted) == 4


def test_circuits_at_hand_are_taken_as_they_are(planted, tmp_path):
    models = planted_model("mlp", decoys=False), planted_model("mlp")
    searched = compare(*models, tmp_path / "out", names=["one"], config=QUICK)
    files = {side: {"one": tmp_path / "out" / side / "one-0.circuit"} for side in ("sparse", "dense")}
    assert compare(*models, tmp_path / "new", names=["one"], config=QUICK, at_hand=files) == searched
    assert planted == [0, 0] and not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="no circuit of one lies with the dense model"):
        compare(*models, tmp_path / "new", names=["one"], config=QUICK, at_hand={**files, "dense": {}})
    with pytest.raises(UserError, match=r"one-0\.circuit has the seed 0, not 1"):
        compare(*models, tmp_path / "new", names=["one"], seeds=(1,), config=QUICK, at_hand=files)


def test_circuits_of_another_target_are_refused(planted, tmp_path):
    models = planted_model("mlp", decoys=False), planted_model("mlp")
    compare(*models, tmp_path, names=["one"], config=QUICK)
    other = PruneConfig(**{**QUICK.__dict__, "target": 0.3})
    with pytest.raises(UserError, match="has the target 0.15, not 0.3"):
        compare(*models, tmp_path, names=["one"], config=other)
    (tmp_path / "search.json").unlink()
    with pytest.raises(UserError, match=r"one-0\.circuit has the target 0.15, not 0.3"):
        compare(*models, tmp_path, names=["one"], config=other)


def test_the_best_of_several_searches_is_refused(planted, tmp_path):
    models = planted_model("mlp", decoys=False), planted_model("mlp")
    best = prune(models[0], PlantedTask("mlp"), seeds=2, config=QUICK)
    best.save(tmp_path / "best.circuit")
    with pytest.raises(UserError, match=r"best\.circuit is the best of 2 searches, where one a seed is compared"):
        compare(
            *models,
            tmp_path / "out",
            names=["one"],
            config=QUICK,
            at_hand={"sparse": {"one": tmp_path / "best.circuit"}},
        )


def test_circuits_of_another_task_are_refused(planted, tmp_path, monkeypatch):
    class Other(PlantedTask):
        hash = "f" * 64

    models = planted_model("mlp", decoys=False), planted_model("mlp")
    compare(*models, tmp_path, names=["one"], config=QUICK)
    monkeypatch.setattr(MODULE.tasks, "get", lambda name, tokenizer: Other("mlp"))
    with pytest.raises(UserError, match=r"one-0\.circuit has the task .*, not ffff"):
        compare(*models, tmp_path, names=["one"], config=QUICK)


def test_circuits_of_another_search_are_refused_before_any_work(planted, monkeypatch, tmp_path):
    models = planted_model("mlp", decoys=False), planted_model("mlp")
    compare(*models, tmp_path, names=["one"], config=QUICK)
    monkeypatch.setattr(MODULE, "_losses", pytest.fail)
    other = PruneConfig(**{**QUICK.__dict__, "edge_prices": (1.0,)})
    with pytest.raises(UserError, match=r"search\.json has the edge_prices \[1\.0, 0\.3, 0\.1, 0\.03\], not \[1\.0\]"):
        compare(*models, tmp_path, names=["one"], config=other)
    for damaged in ("{", "[]"):
        (tmp_path / "search.json").write_text(damaged)
        with pytest.raises(UserError, match=r"search\.json is damaged"):
            compare(*models, tmp_path, names=["one"], config=QUICK)


def test_models_that_share_no_task_are_refused(planted, monkeypatch, tmp_path):
    monkeypatch.setattr(MODULE, "_losses", lambda model, side, names, report: dict.fromkeys(names, 0.5))
    with pytest.raises(UserError, match=r"no task .* below 0\.15 .*\(the nearest, one, has 0\.5 and 0\.5\)"):
        compare(planted_model("mlp"), planted_model("mlp"), tmp_path, names=["one"])


def test_each_task_is_told_before_it_is_tried(monkeypatch, tmp_path):
    def tried(model, names, report):
        return [report(name) or {"task": name, "loss": 0.5} for name in names]

    monkeypatch.setattr(MODULE, "_check", lambda *asked: None)
    monkeypatch.setattr(MODULE, "try_tasks", tried)
    lines = []
    with pytest.raises(UserError, match="no task"):
        compare(planted_model("mlp"), planted_model("mlp"), tmp_path, names=["one", "two"], report=lines.append)
    assert lines == [
        {"phase": f"try {task} in the {side} model"} for side in ("sparse", "dense") for task in ("one", "two")
    ]
    assert not list(tmp_path.iterdir())


def test_what_would_fail_late_or_be_left_out_is_told_before_the_work(tiny_corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(MODULE, "_losses", pytest.fail)
    bare, model = planted_model("mlp"), planted_model("mlp")
    with pytest.raises(UserError, match="the sparse model has no tokenizer"):
        compare(bare, bare, tmp_path)
    model.tokenizer = tiny_corpus.tokenizer
    with pytest.raises(UserError, match="the dense model has no tokenizer"):
        compare(model, bare, tmp_path)
    for name, says in {"for_wile": "did you mean for_while", "nowhere.jsonl": "cannot read the task file"}.items():
        with pytest.raises(UserError, match=says):
            compare(model, model, tmp_path, names=["for_while", name])
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        row = '{"prompt": "x", "right": "y", "wrong": "z"}\n'
        (tmp_path / place / "mine.jsonl").write_text(row + row.replace("x", "w"))
    with pytest.raises(UserError, match="would be the same files"):
        compare(model, model, tmp_path, names=[str(tmp_path / place / "mine.jsonl") for place in ("a", "b")])
    model.means = {}
    with pytest.raises(UserError, match="no mean activations"):
        compare(model, model, tmp_path, names=["for_while", "for_while~nonsense"])
