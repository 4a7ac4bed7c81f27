"""The verbs that measure speed."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from openwork.cli.options import Json
from openwork.cli.output import console, print_rows, write_json

bench = typer.Typer(help="Measure speed: interleaved runs, medians and ratios.")
Layers = Annotated[int, typer.Option(min=1, help="Layers.")]
Width = Annotated[int, typer.Option(min=1, help="Width of the residual stream.")]
Density = Annotated[str, typer.Option(help="Fraction of weights that are not zero, such as 1/64.")]
Context = Annotated[int, typer.Option(min=1, help="Tokens of a sequence.")]
Tokens = Annotated[int, typer.Option(min=1, help="Tokens of a step.")]
Rounds = Annotated[int, typer.Option(min=1, help="Timed rounds.")]


@bench.command("train")
def bench_train(
    layers: Layers = 4,
    d_model: Width = 256,
    density: Density = "1/64",
    context: Context = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per step.")] = 4,
    rounds: Rounds = 7,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to run.")] = "cpu",
    json_file: Json = None,
) -> None:
    """Training steps of this package, beside the naive method, dense training, and the limit of this machine."""
    from openwork.bench import bench_training
    from openwork.config import number

    share = number(density, "--density")
    numbers = bench_training(layers, d_model, share, n_ctx=context, batch_size=batch_size, rounds=rounds, device=device)
    title = f"{layers} layers, d_model {d_model}, density {density}"
    table = Table("way", "tokens/s", "times naive", "times dense", title=title)
    for name, speed in numbers["tokens_per_second"].items():
        ratios = (numbers[key].get(name) for key in ("times_naive", "times_dense"))
        table.add_row(name, f"{speed:,.0f}", *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios))
    console.print(table)
    print(json.dumps(numbers))
    write_json(json_file, numbers)


@bench.command("infer")
def bench_infer(
    layers: Layers = 2,
    d_model: Width = 2048,
    density: Density = "1/256",
    context: Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")] = 256,
    rounds: Rounds = 7,
    json_file: Json = None,
) -> None:
    """Inference, one token at a time and whole contexts, beside dense PyTorch."""
    from openwork.bench import bench_inference
    from openwork.config import number

    filled, share = min(32, context - 1), number(density, "--density")
    numbers = bench_inference(layers, d_model, share, n_ctx=context, filled=filled, rounds=rounds)
    rows = [
        {"what": what, "way": way, "tokens/s": speed, "times dense": numbers["times_dense"][what][way]}
        for what, speeds in numbers["tokens_per_second"].items()
        for way, speed in speeds.items()
    ]
    print_rows(f"{layers} layers, d_model {d_model}, density {density}", rows)
    print(json.dumps(numbers))
    write_json(json_file, numbers)


@bench.command("kernels")
def bench_kernels_command(
    tokens: Tokens = 1024,
    rounds: Rounds = 7,
    json_file: Json = None,
) -> None:
    """Each kernel beside its twin; products and attention by shape and density, and from which density on they win."""
    from openwork.bench import bench_attention, bench_kernels, bench_twins, crossovers

    rows, attention = bench_kernels(tokens, rounds), bench_attention(tokens, rounds=rounds)
    numbers = {"tokens": tokens, "kernels": rows, "crossovers": crossovers(rows), "attention": attention}
    numbers["twins"] = bench_twins(tokens, rounds=rounds)
    print_rows("times faster than dense", [in_short({**row, "twin": row.get("twin", "")}, "density") for row in rows])
    print_rows("wins from this density on", [in_short(row, "exact", "fast") for row in numbers["crossovers"]])
    print_rows("attention, times faster than PyTorch's", [in_short(row, "kept") for row in attention])
    print_rows("each kernel and its twin in plain PyTorch", numbers["twins"])
    print(json.dumps(numbers))
    write_json(json_file, numbers)


def in_short(row: dict[str, Any], *densities: str) -> dict[str, Any]:
    """The row for 80 characters: densities as fractions (0 stays), other numbers with two decimals."""
    short = {name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}
    return short | {name: f"1/{round(1 / row[name])}" for name in densities if row[name]}


@bench.command("topk")
def bench_topk_command(
    d_model: Annotated[int, typer.Option(min=256, help="Width of the residual stream.")] = 1024,
    tokens: Tokens = 1024,
    rounds: Rounds = 7,
    json_file: Json = None,
) -> None:
    """Both selections: of activations and of weights, beside torch.topk."""
    from openwork.bench import bench_topk

    numbers = {"d_model": d_model, "tokens": tokens, "selections": bench_topk(d_model, tokens, rounds=rounds)}
    print_rows(f"selections, d_model {d_model}, {tokens} tokens", numbers["selections"])
    print(json.dumps(numbers))
    write_json(json_file, numbers)
