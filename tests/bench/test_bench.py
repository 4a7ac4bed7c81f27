"""The benchmarks run, report what they say they do, and compare like with like. Speed itself is not tested."""

from __future__ import annotations

import json
import math
import re
import runpy
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from openwork import kernels
from openwork.bench import attention, bench_inference, bench_training, bench_twins, products, twins
from openwork.bench.plain import plain_abs_topk, plain_operators, plain_stepper
from openwork.bench.timing import interleave, times
from openwork.bench.training import multiply_adds, stepper
from openwork.cli import app
from openwork.errors import UserError
from openwork.kernels import abs_topk, library
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig
from openwork.training.gradient import Gradient
from openwork.training.loop import make_optimizer, train_step

TINY = ModelConfig(n_layers=1, d_model=32, n_ctx=16, d_vocab=64)


def test_rounds_are_interleaved_and_ratios_are_taken_within_them():
    calls: list[str] = []
    seconds = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3 and [len(s) for s in seconds.values()] == [2, 2]
    assert times([2.0, 6.0, 10.0], [1.0, 2.0, 10.0]) == 2  # the median of 2, 3 and 1


def test_the_naive_method_takes_the_same_steps():
    sparsity = SparsityConfig(density=1 / 4, floor=0, anneal_start=0, anneal_end=0)  # naive floors keep more
    config = TrainConfig(model=TINY, sparsity=sparsity, batch_size=2)
    batch = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(0))
    ours, naive = Transformer(TINY, seed=1), Transformer(TINY, seed=1)
    optimizer, gradient = make_optimizer(ours, config), Gradient(ours)
    plain_step = plain_stepper(naive, config, batch)
    for number in range(300, 303):
        train_step(gradient, optimizer, batch, number, config)
        plain_step(number)
    theirs, start = dict(naive.named_parameters()), dict(Transformer(TINY, seed=1).named_parameters())
    assert any(not torch.equal(parameter, start[name]) for name, parameter in ours.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], atol=1e-5, rtol=0, msg=name)


def test_plain_operators_are_pytorchs_own():
    x = torch.randn(3, 20)
    assert torch.equal(plain_abs_topk(x, 5), abs_topk(x, 5))
    model, tokens = Transformer(TINY), torch.randint(0, 64, (2, 16))
    with plain_operators():
        assert not kernels.library.here(x)
        want = model(tokens)
    torch.testing.assert_close(model(tokens), want, rtol=1e-4, atol=1e-5)


def test_it_reports_every_way_and_what_it_measured():
    numbers = json.loads(json.dumps(bench_training(1, 32, 1 / 4, n_ctx=16, batch_size=2, rounds=3)))
    assert {"layers": 1, "d_model": 32, "density": 0.25, "n_ctx": 16, "batch_size": 2}.items() <= numbers.items()
    assert set(numbers["tokens_per_second"]) == {"naive", "dense", "exact", "fast", "limit"}
    speeds = [*numbers["tokens_per_second"].values(), *numbers["times_naive"].values()]
    assert all(speed > 0 and math.isfinite(speed) for speed in speeds)
    assert numbers["times_naive"]["naive"] == numbers["times_dense"]["dense"] == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so():
    with pytest.raises(UserError, match="PyTorch sees no GPU here"):
        bench_training(1, 32, 1 / 4, device="cuda")


def test_useful_multiply_adds_by_hand():
    # 12 * 32^2 / 8 weights of the layer and 32 * 64 / 2 of the unembedding, three times; attention to 8 of 16
    # positions, two products forward and four back
    assert multiply_adds(TINY, 1 / 8) == 3 * (12 * 32**2 / 8 + 32 * 64 / 2) + 3 * 32 * 16


def test_fast_mode_is_timed_between_refreshes_with_what_is_kept(monkeypatch):
    made = []
    monkeypatch.setattr(
        "openwork.bench.training.make_optimizer", lambda *of: made.append(make_optimizer(*of)) or made[-1]
    )
    config = TrainConfig(
        model=TINY, sparsity=SparsityConfig(density=1 / 32, floor=0, anneal_start=0, anneal_end=0), mode="fast"
    )
    step = stepper(config, torch.randint(0, 64, (1, 17)))
    assert step(1)["density"] == 1 / 32
    (optimizer,) = made
    assert optimizer.places and not optimizer.refreshing


def test_inference_agrees_between_the_ways():
    numbers = bench_inference(1, 32, 1 / 8, n_ctx=16, filled=3, rounds=1, repeats=1)
    assert numbers["largest_difference"] < 1e-4
    assert set(numbers["tokens_per_second"]) == {"one token", "context"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--layers", "1", "--d-model", "32", "--context", "16", "--batch-size", "1", "--density", "1/8"],
        ["infer", "--layers", "1", "--d-model", "32", "--context", "40", "--density", "1/8"],
        ["topk", "--d-model", "256", "--tokens", "8"],
        ["kernels", "--tokens", "8"],
    ],
)
def test_the_last_line_is_the_json_that_the_file_has(arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(products, "SHAPES", ((32, 48),))
    monkeypatch.setattr(attention, "WIDTHS", (32,))
    done = CliRunner().invoke(app, ["bench", *arguments, "--rounds", "1", "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads((tmp_path / "out.json").read_text())


@pytest.mark.skipif(not kernels.native, reason="the kernels were not compiled here")
def test_each_kernel_of_attention_is_timed_there_and_back(monkeypatch):
    called, call = [], library.call
    monkeypatch.setattr(library, "call", lambda name, *others: called.append(name) or call(name, *others))
    monkeypatch.setattr(attention, "WIDTHS", (32,))
    rows = attention.bench_attention(tokens=128, context=128, rounds=1)
    ways = {f"{kernel}, {way}" for kernel in ("any keys", "skipping") for way in ("forward", "both ways")}
    assert [row["kept"] for row in rows] == list(attention.FRACTIONS)
    assert all(row.keys() == {"d_model", "kept"} | ways and all(row[way] > 0 for way in ways) for row in rows)
    backward = {"attention_backward", "selected_attention_backward"}
    assert {name for name in called if "attention" in name} == {"attention", "selected_attention"} | backward


@pytest.mark.skipif(not kernels.native, reason="the kernels were not compiled here")
def test_each_kernel_is_timed_beside_its_twin(monkeypatch):
    called, call = [], library.call
    monkeypatch.setattr(library, "call", lambda name, *others: called.append(name) or call(name, *others))
    rows = {row["kernel"]: row for row in bench_twins(tokens=4, d_in=32, d_out=48, density=1 / 8, rounds=1)}
    sparse = {"compress", "sparse product", "sparse product, way back", "sparse product, 20 x one token"}
    passes = {f"{name}, both ways" for name in ("RMSNorm", "GELU", "cross-entropy")}
    assert rows.keys() == sparse | passes | {"AbsTopK", "selection of weights", "Adam"}
    assert all(row["ms"] > 0 and row["ms of the twin"] > 0 and row["times"] > 0 for row in rows.values())
    there_and_back = {f"{name}{way}" for name in ("rms_norm", "gelu", "cross_entropy") for way in ("", "_backward")}
    products = {"compress", "sparse_linear", "sparse_linear_backward", "sparse_vector"}
    assert {*called} == products | there_and_back | {"abs_topk", "keep_topk", "adam_step"}


def test_a_kernel_and_its_twin_do_the_same():
    random = torch.Generator().manual_seed(0)
    x, y, weight = (torch.randn(n, generator=random) for n in ((4, 32), (4, 48), (48, 32)))
    sparse = weight * (weight > 1)
    for kernel, twin in [*twins._products(x, y, sparse).values(), *twins._passes(y).values()]:
        found, wanted = ([] if result is None else list(result) for result in (kernel(), twin()))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


SIZES = [
    ("infer", "--rounds", "0"),
    ("kernels", "--rounds", "0"),
    ("topk", "--d-model", "128"),
    ("infer", "--context", "1"),
]


@pytest.mark.parametrize("asked", SIZES)
def test_sizes_below_one_are_refused_before_anything_is_timed(asked):
    done = CliRunner().invoke(app, ["bench", *asked])
    assert done.exit_code == 2 and "greater than or equal to" in done.output


def test_the_profile_of_a_step_names_every_kernel_of_the_step():
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "step_profile.py"))
    named = {name for names in script["KINDS"].values() for name in names}
    functions = {
        f.__name__ for f in torch.autograd.Function.__subclasses__() if f.__module__.startswith("openwork.kernels")
    }
    assert "_Together" in functions
    assert functions - {"_GELU"} <= named  # in training a GELU always comes with AbsTopK


def test_quality_says_whether_the_main_tasks_hold():
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "fast_mode_quality.py"))
    main, spread = dict.fromkeys(script["MAIN_TASKS"], 0.5), (0.0, 0.1)

    def runs(**worse: float) -> list[dict]:
        losses = {name: loss + worse.get(name, 0) for name, loss in {**main, "with_as": 0.5}.items()}
        point = {"tokens": 1, "seconds": 1.0, "loss": 3.0}
        return [
            {"loss": 3.0, "seconds": 1.0, "validations": [point], "tasks": {n: x + s for n, x in losses.items()}}
            for s in spread
        ]

    held = {
        worse: [script["compare"](runs(), runs(**{worse: by}))[key] for key in ("tasks_hold", "main_tasks_hold")]
        for worse, by in {"set_or_string": 0.09, "class_init": 0.11, "with_as": 0.11}.items()
    }
    assert held == {"set_or_string": [True, True], "class_init": [False, False], "with_as": [False, True]}


REPORT = """
# Overhead  Shared Object         Symbol
    50.00%  _native.so            [.] (anonymous namespace)::add_block<8>
     4.00%  _native.so            [.] (anonymous namespace)::one_row
     2.00%  _native.so            [.] (anonymous namespace)::parallel<abs_topk_backward_avx512::{lambda(long)#1}>
     9.00%  _native.so            [.] gelu_abs_topk_backward_avx512
     3.00%  _native.so            [.] (anonymous namespace)::protect_rows
     1.00%  libtorch_cpu.so       [.] one_row
"""


def test_the_share_of_selections_is_that_of_their_functions_in_the_kernels(tmp_path, monkeypatch):
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "selection_share.py"))
    sampled_shares = script["sampled_shares"]
    monkeypatch.setitem(sampled_shares.__globals__, "SECONDS", 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no perf here"):
        sampled_shares(lambda step: None)

    perf = tmp_path / "perf"
    perf.write_text(f'#!/bin/sh\nif [ "$1" = report ]; then\n/bin/cat <<END\n{REPORT}END\nfi\n')
    perf.chmod(0o755)
    shares = sampled_shares(lambda step: None)
    assert shares == pytest.approx(
        {"all else": 0.6, "selection of activations": 0.06, "selection of weights": 0.03}, abs=1e-9
    )
    perf.write_text("#!/bin/sh\necho '    50.00%  libtorch_cpu.so  [.] abs_topk'\n")
    with pytest.raises(UserError, match="no function that selects"):
        sampled_shares(lambda step: None)
    perf.write_text("#!/bin/sh\necho no permission >&2\n")
    with pytest.raises(UserError, match="took no samples; it says: no permission"):
        sampled_shares(lambda step: None)


def test_the_share_of_selections_knows_functions_that_there_are():
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "selection_share.py"))
    sources = "".join(path.read_text() for path in Path(kernels.__file__).parent.glob("*.[ch]*"))
    for names in script["KINDS"].values():
        assert all(re.search(name, sources) for name in names.split("|"))
