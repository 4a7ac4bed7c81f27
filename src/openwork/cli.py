"""The verbs: parse, load, call one function, save, print.

Every command that reports takes ``--json FILE`` and writes there every number that it prints. Exit status 0 on success,
2 for what the user can mend (one line says how), 130 when stopped.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from openwork.artifacts import Card, load_card, write_atomically
from openwork.errors import UserError

app = typer.Typer(
    help="Train language models whose wiring people can read, find their circuits, and test them.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
bench = typer.Typer(help="Measure speed: interleaved runs, medians and ratios.")
app.add_typer(bench, name="bench")
import_ = typer.Typer(help="Open models and circuits of others.")
app.add_typer(import_, name="import")
export = typer.Typer(help="Write models and circuits for other tools.")
app.add_typer(export, name="export")
console = Console()
UsageError: Any = typer.BadParameter.__base__
"""What a command line that cannot be parsed raises; typer does not export it."""
STOPPED = 130
MOST_SEED = 2**63 - 1 - 2**16
"""Seeds that PyTorch takes, with room to count on from one."""


def _file_to_write(path: Path | None) -> Path | None:
    """`path`, if a file can be written there: asked before the work, not after it."""
    if path is None:
        return None
    place = next((parent for parent in path.absolute().parents if parent.exists()), path)
    if path.is_dir() or not place.is_dir() or not os.access(place, os.W_OK):
        why = "is a directory" if path.is_dir() else f"cannot be written in {place}"
        raise UserError(f"the file {path} {why}; choose another place")
    return path


def _directory_to_write(path: Path) -> Path:
    """`path`, if it is a directory or can become one."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a directory; choose another place")
    _file_to_write(path / "file")
    return path


Json = Annotated[
    Path | None,
    typer.Option("--json", callback=_file_to_write, help="Write every number that is printed to this file."),
]
Settings = Annotated[list[str] | None, typer.Argument(help="Settings as key=value, such as model.d_model=256.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="TOML or JSON file of settings.")]


def _model_directory(path: Path | None) -> Path | None:
    """`path`, or the directory of the model of that name that comes with the package, if nothing lies at `path`."""
    from openwork import models

    return models.path(path) if path is not None and str(path) in models.names() and not path.exists() else path


ModelPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", callback=_model_directory, help="Model directory, or a name of `openwork models`."),
]


def main() -> None:
    """Run the command line; what the user can mend ends in one line and status 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        _refuse_empty(sys.argv[1:])
        status = app(sys.argv[1:] or ["--help"], prog_name="openwork", standalone_mode=False) or 0
        sys.stdout.flush()
    except UserError as error:
        from openwork.training.loop import Interrupted

        _end(str(error), 130 if isinstance(error, Interrupted) else 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # who read our output has gone, so the rest of it goes nowhere
        sys.exit(STOPPED)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        _end(f"{error.strerror or error}{where}; check the path, its rights and the free space", 2)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "memory" in str(error)):  # PyTorch has no class for it on a CPU
            raise
        _end("this machine has too little memory for these sizes; lower the batch, the context or the model", 2)
    except UsageError as error:
        message = " ".join(error.format_message().split()).rstrip(".") or "which command?"
        _end(f"{message}; see {error.ctx.command_path if error.ctx else 'openwork'} --help", 2)
    if status == STOPPED:
        _end("stopped; the same command goes on where it was", STOPPED)
    sys.exit(status)


def _refuse_empty(arguments: list[str]) -> None:
    """An empty path would be the current directory, which is hardly meant: mostly a shell variable is not set."""
    for argument in arguments:
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            raise UserError(f"the argument {argument!r} is empty; give a name or a path")


def _end(message: str, status: int) -> NoReturn:
    print(f"openwork: {message}", file=sys.stderr)
    sys.exit(status)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(callback=_directory_to_write, help="Directory of the results.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the training and of the first search.")] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Open the page where there is a browser.")] = True,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Show a circuit of the reference model; nothing is trained.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Train a weight-sparse model on Python code and read how it closes a quote. Stopped, it goes on where it was."""
    from openwork.demo import DemoConfig, run_demo, run_pretrained, train_config

    if pretrained:
        summary = run_pretrained(out / "pretrained", console=console, open_page=open_page)
    else:
        summary = run_demo(out, DemoConfig(train_config(seed)), console=console, open_page=open_page)
    _write_json(json_file, summary)


@app.command()
def corpus(
    source: Annotated[
        str,
        typer.Argument(
            help="stdlib, idioms, a directory or file, FILE.jsonl#column, hub:OWNER/NAME, "
            "or a mixture such as stdlib:0.5,idioms:0.5."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory of the corpus.")],
    d_vocab: Annotated[int, typer.Option(help="Size of the vocabulary to train.")] = 2048,
    tokenizer: Annotated[Path | None, typer.Option(help="A tokenizer.json to use instead.")] = None,
    validation_fraction: Annotated[float, typer.Option(help="Share of the documents held out for validation.")] = 0.05,
    max_tokens: Annotated[int | None, typer.Option(help="Stop at about this many tokens.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the split and the order.")] = 0,
    json_file: Json = None,
) -> None:
    """Build a corpus: text to token shards, with a tokenizer and a manifest."""
    from openwork.corpus import build_corpus
    from openwork.progress import corpus_progress

    with corpus_progress(console) as progress:
        built = build_corpus(
            source,
            out,
            d_vocab=d_vocab,
            tokenizer=tokenizer,
            validation_fraction=validation_fraction,
            max_tokens=max_tokens,
            seed=seed,
            progress=progress,
        )
    numbers = built.manifest.summary()
    _print_table(f"corpus {out}", numbers)
    _write_json(json_file, numbers)


@app.command()
def train(
    corpus_path: Annotated[Path, typer.Argument(metavar="CORPUS", help="Directory that `openwork corpus` wrote.")],
    out: Annotated[Path, typer.Option(callback=_directory_to_write, help="Model directory to write.")],
    settings: Settings = None,
    config: Config = None,
    device: Annotated[str | None, typer.Option(help="auto (the default), cpu or cuda.")] = None,
    json_file: Json = None,
) -> None:
    """Train a model: weight-sparse by default, dense with sparsity.density=1. Stopped, it goes on where it was."""
    from openwork.config import read_config
    from openwork.corpus import open_corpus
    from openwork.progress import training_progress
    from openwork.training import TrainConfig, read_metrics
    from openwork.training import train as run

    wanted = read_config(TrainConfig, config, [*(settings or ()), *([f"device={device}"] if device else ())])
    with training_progress(console) as report:
        run(open_corpus(corpus_path), wanted, out, report)
    numbers = read_metrics(out)[-1]
    _print_table(f"model {out}", {name: value for name, value in numbers.items() if not isinstance(value, dict)})
    _write_json(json_file, numbers)


@app.command()
def tasks(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]", callback=_model_directory, help="Model directory: show its loss on each task."
        ),
    ] = None,
    file: Annotated[
        list[str] | None, typer.Option(help="A task of your own, .jsonl or .py, beside the others.", metavar="FILE")
    ] = None,
    lint: Annotated[
        str | None, typer.Option(help="Say what is wrong with FILE for the tokenizer of MODEL.", metavar="FILE")
    ] = None,
    json_file: Json = None,
) -> None:
    """List the tasks with an example pair; with a MODEL, its unpruned loss and accuracy on each."""
    from openwork import tasks as task_list
    from openwork.models import load_model
    from openwork.tasks.survey import list_tasks, try_tasks

    if lint is not None:
        return _lint(lint, model, json_file)
    names = (*task_list.names(), *(file or ()))
    rows = try_tasks(load_model(model), names) if model else list_tasks(names)
    _print_rows("tasks", rows) if model else _print_pairs(rows)
    _write_json(json_file, {"tasks": rows})


def _lint(file: str, model: Path | None, json_file: Path | None) -> None:
    """Print the faults of the task in `file`; one is enough for status 2."""
    from openwork.models import load_model
    from openwork.tasks.survey import lint_task

    if model is None:
        raise UserError(f"--lint {file} needs a MODEL, whose tokenizer decides; give its directory")
    rows = lint_task(file, load_model(model).tokenizer)
    _write_json(json_file, {"file": file, "pairs": rows})
    faulty = [row for row in rows if row["fault"]]
    if faulty:
        _print_rows(file, faulty)
        raise UserError(f"{len(faulty)} of {len(rows)} in {file} have faults; mend them")
    console.print(f"{file}: no faults in {len(rows)}")


@app.command()
def models(json_file: Json = None) -> None:
    """List the models that come with the package; their names may stand wherever a model directory may."""
    from openwork.models import list_models

    rows = list_models()
    _print_rows("models", [{k: v for k, v in row.items() if k not in ("circuits", "directory")} for row in rows])
    for row in rows:
        console.print(f"{row['name']}: {row['directory']}", soft_wrap=True, highlight=False)
        console.print(f"  circuits: {', '.join(row['circuits']) or 'none'}", soft_wrap=True, highlight=False)
    _write_json(json_file, {"models": rows})


@app.command()
def prune(
    model: ModelPath,
    task: Annotated[str, typer.Argument(help="Name of a task (see `openwork tasks`), or a .jsonl or .py file.")],
    out: Annotated[Path, typer.Option(callback=_file_to_write, help="Circuit file to write.")],
    settings: Settings = None,
    config: Config = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the first search.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Searches; the best circuit is kept.")] = 1,
    targets: Annotated[
        str | None,
        typer.Option(help="Losses such as 0.05,0.15,0.3: one circuit for each, and the curve as a PNG beside OUT."),
    ] = None,
    with_baselines: Annotated[
        bool, typer.Option("--baselines", help="Also say what attribution, magnitude and a random order need.")
    ] = False,
    corpus: Annotated[Path | None, typer.Option(help="Corpus for the mean activations, if the model has none.")] = None,
    json_file: Json = None,
) -> None:
    """Find the circuit by which MODEL performs TASK; with --targets, one for each (OUT with the target in its name)."""
    from openwork import tasks as task_list
    from openwork.config import numbers_in, read_config
    from openwork.corpus import open_corpus
    from openwork.models import load_model, save_means
    from openwork.progress import pruning_progress
    from openwork.pruning import PruneConfig, baselines, draw_curve, prune_to_targets
    from openwork.training import corpus_means

    wanted = read_config(PruneConfig, config, settings or ())
    losses = numbers_in(targets, "--targets") if targets else [wanted.target]
    loaded = load_model(model)
    texts = open_corpus(corpus) if corpus is not None else None
    if texts is not None and not loaded.means:
        loaded.means = corpus_means(loaded, texts)
        save_means(loaded, model)
    posed = task_list.get(task, loaded.tokenizer)
    with pruning_progress(console) as report:
        circuits = prune_to_targets(loaded, posed, losses, seed=seed, seeds=seeds, config=wanted, report=report)
        compared = baselines(loaded, posed, seed=seed, config=wanted, report=report) if with_baselines else []
    numbers = []
    for circuit in circuits:
        path = out if targets is None else out.with_name(f"{out.stem}-{circuit.target:g}{out.suffix}")
        circuit.save(path)
        numbers.append(circuit_numbers(circuit))
        _print_table(f"circuit {path}", {k: v for k, v in numbers[-1].items() if k != "tried"})
        _print_rows("searches", numbers[-1]["tried"])
        if not circuit.reached:
            console.print(
                f"[bold red]target not reached:[/] {circuit.losses['circuit']:.3f} nats, the target is {circuit.target}"
            )
    if targets is not None:
        draw_curve(circuits, out.with_suffix(".png"))
        console.print(f"curve: {out.with_suffix('.png').resolve()}")
    if compared:
        _print_rows(f"without a search, at loss {wanted.target:g}", compared)
    told = numbers[0] if targets is None else {"circuits": numbers}
    _write_json(json_file, {**told, "baselines": compared} if compared else told)


@app.command()
def verify(
    circuit_path: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="Circuit file.")],
    model: Annotated[Path, typer.Option(callback=_model_directory, help="Model directory of the circuit.")],
    task: Annotated[
        str | None, typer.Option(help="The circuit's task, where it is your own: the .jsonl or .py file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(callback=_file_to_write, help="Write the card to this JSON file.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the random circuits.")] = 0,
    json_file: Json = None,
) -> None:
    """Test whether a circuit is what the model really does, beside controls that could say no."""
    from dataclasses import asdict

    from openwork import tasks as task_list
    from openwork.faithfulness import verify as run
    from openwork.models import load_model
    from openwork.pruning import load_circuit

    loaded = load_model(model)
    circuit = load_circuit(circuit_path, loaded)
    with console.status("checking") as status:
        card = run(
            circuit,
            task_list.get(task or circuit.task, loaded.tokenizer),
            seed=seed,
            report=lambda name: status.update(name),
        )
    _print_rows(f"card of {circuit.task}", card_rows(card))
    if out is not None:
        card.save(out)
    _write_json(json_file, asdict(card))


@app.command()
def view(
    circuit_path: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="Circuit file.")],
    model: Annotated[Path, typer.Option(callback=_model_directory, help="Model directory of the circuit.")],
    corpus: Annotated[Path, typer.Option(help="Corpus whose texts the nodes show.")],
    card: Annotated[Path | None, typer.Option(help="Card to show.")] = None,
    task: Annotated[
        str | None, typer.Option(help="The circuit's task, where it is your own: the .jsonl or .py file.")
    ] = None,
    out: Annotated[Path, typer.Option(callback=_file_to_write, help="HTML file to write.")] = Path("page.html"),
    svg: Annotated[
        Path | None,
        typer.Option(callback=_file_to_write, help="Save the drawing as this SVG (needs Chromium or Chrome)."),
    ] = None,
) -> None:
    """Write the page of a circuit: one HTML file that needs no network."""
    from openwork import tasks as task_list
    from openwork.corpus import open_corpus
    from openwork.models import load_model
    from openwork.pruning import load_circuit
    from openwork.viewer import picture, write_page

    loaded = load_model(model)
    circuit = load_circuit(circuit_path, loaded)
    posed = task_list.get(task or circuit.task, loaded.tokenizer)
    write_page(out, circuit, posed, load_card(card) if card else None, loaded, open_corpus(corpus))
    console.print(f"page: {out.resolve()}", soft_wrap=True)
    if svg is not None:
        picture(out, svg)
        console.print(f"drawing: {svg.resolve()}", soft_wrap=True)


@app.command()
def explain(
    circuit_path: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="Circuit file.")],
    model: Annotated[Path, typer.Option(callback=_model_directory, help="Model directory of the circuit.")],
    corpus: Annotated[Path | None, typer.Option(help="Corpus in which the nodes are watched too.")] = None,
    task: Annotated[
        str | None, typer.Option(help="The circuit's task, where it is your own: the .jsonl or .py file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(callback=_file_to_write, help="Write the text to this file.")] = None,
    program: Annotated[
        Path | None, typer.Option(callback=_file_to_write, help="Write the circuit to this file, as a numpy program.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Tell a circuit as text, from the tokens to the answer, and write it as a Python program."""
    from openwork import explain as told
    from openwork import tasks as task_list
    from openwork.corpus import open_corpus
    from openwork.models import load_model
    from openwork.pruning import load_circuit

    loaded = load_model(model)
    circuit = load_circuit(circuit_path, loaded)
    posed = task_list.get(task or circuit.task, loaded.tokenizer)
    seen = told.see(circuit, loaded, posed, open_corpus(corpus) if corpus is not None else None)
    text, numbers = told.to_text(seen, posed.tokenizer.tokens), told.to_numbers(seen)
    if program is not None:
        source, numbers["program"] = told.write_program(circuit, loaded, posed)
        write_atomically(program, source)
    if out is not None:
        write_atomically(out, text)
    print(text, end="")
    if program is not None:
        console.print(f"program: {program.resolve()}", soft_wrap=True)
    _write_json(json_file, numbers)


@app.command()
def compare(
    sparse: Annotated[
        Path,
        typer.Argument(metavar="SPARSE", callback=_model_directory, help="Model directory of the weight-sparse model."),
    ],
    dense: Annotated[
        Path, typer.Argument(metavar="DENSE", callback=_model_directory, help="Model directory of the dense one.")
    ],
    out: Annotated[Path, typer.Option(callback=_directory_to_write, help="Directory of the circuits and the figure.")],
    settings: Settings = None,
    config: Config = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Searches per task and model; each is shown.")] = 1,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given again.")] = None,
    json_file: Json = None,
) -> None:
    """Prune both models on all tasks that both can do: edges and nodes by task, means, and the ratio."""
    from openwork.config import read_config
    from openwork.frontier import compare as run
    from openwork.frontier import draw_comparison
    from openwork.models import load_model
    from openwork.progress import pruning_progress
    from openwork.pruning import PruneConfig

    wanted = read_config(PruneConfig, config, settings or ())
    models = load_model(sparse), load_model(dense)
    with pruning_progress(console) as report:
        compared = run(*models, out, names=task, seeds=range(seed, seed + seeds), config=wanted, report=report)
    numbers = compared.summary()
    _print_rows(f"circuits at {wanted.target:g} nats", compared.rows())
    _print_rows("geometric means over the tasks that reached the target in both", compared.means())
    draw_comparison(compared, out / "comparison.png")
    write_atomically(out / "comparison.json", json.dumps(numbers, indent=2) + "\n")
    console.print(f"figure: {(out / 'comparison.png').resolve()}", soft_wrap=True)
    _write_json(json_file, numbers)


@bench.command("train")
def bench_train(
    layers: Annotated[int, typer.Option(min=1, help="Layers.")] = 4,
    d_model: Annotated[int, typer.Option(min=1, help="Width of the residual stream.")] = 256,
    density: Annotated[str, typer.Option(help="Fraction of weights that are not zero, such as 1/64.")] = "1/64",
    context: Annotated[int, typer.Option(min=1, help="Tokens per sequence.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per step.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Timed steps of each way.")] = 7,
    json_file: Json = None,
) -> None:
    """Training steps of this package, beside the naive method, dense training, and the limit of this machine."""
    from openwork.bench import bench_training
    from openwork.config import number

    numbers = bench_training(
        layers, d_model, number(density, "--density"), n_ctx=context, batch_size=batch_size, rounds=rounds
    )
    title = f"{layers} layers, d_model {d_model}, density {density}"
    table = Table("way", "tokens/s", "times naive", "times dense", title=title)
    for name, speed in numbers["tokens_per_second"].items():
        ratios = (numbers[key].get(name) for key in ("times_naive", "times_dense"))
        table.add_row(name, f"{speed:,.0f}", *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios))
    console.print(table)
    print(json.dumps(numbers))
    _write_json(json_file, numbers)


@bench.command("infer")
def bench_infer(
    layers: Annotated[int, typer.Option(help="Layers.")] = 2,
    d_model: Annotated[int, typer.Option(help="Width of the residual stream.")] = 2048,
    density: Annotated[str, typer.Option(help="Fraction of weights that are not zero, such as 1/256.")] = "1/256",
    context: Annotated[int, typer.Option(help="Tokens of a context.")] = 256,
    rounds: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    json_file: Json = None,
) -> None:
    """Inference, one token at a time and whole contexts, beside dense PyTorch."""
    from openwork.bench import bench_inference
    from openwork.config import number

    numbers = bench_inference(layers, d_model, number(density, "--density"), n_ctx=context, rounds=rounds)
    rows = [
        {"what": what, "way": way, "tokens/s": speed, "times dense": numbers["times_dense"][what][way]}
        for what, speeds in numbers["tokens_per_second"].items()
        for way, speed in speeds.items()
    ]
    _print_rows(f"{layers} layers, d_model {d_model}, density {density}", rows)
    print(json.dumps(numbers))
    _write_json(json_file, numbers)


@bench.command("kernels")
def bench_kernels_command(
    tokens: Annotated[int, typer.Option(help="Tokens of a product.")] = 1024,
    rounds: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    json_file: Json = None,
) -> None:
    """Sparse products: times faster than dense PyTorch by shape and density, and from which density on."""
    from openwork.bench import bench_kernels, crossovers

    rows = bench_kernels(tokens, rounds)
    numbers = {"tokens": tokens, "kernels": rows, "crossovers": crossovers(rows)}
    _print_rows("times faster than dense", [{"twin forward": "", **row} for row in rows])
    _print_rows("wins from this density on", numbers["crossovers"])
    print(json.dumps(numbers))
    _write_json(json_file, numbers)


@bench.command("topk")
def bench_topk_command(
    d_model: Annotated[int, typer.Option(help="Width of the residual stream.")] = 1024,
    tokens: Annotated[int, typer.Option(help="Tokens of a step.")] = 1024,
    rounds: Annotated[int, typer.Option(help="Timed rounds.")] = 7,
    json_file: Json = None,
) -> None:
    """Both selections: of activations and of weights, beside torch.topk."""
    from openwork.bench import bench_topk

    numbers = {"d_model": d_model, "tokens": tokens, "selections": bench_topk(d_model, tokens, rounds=rounds)}
    _print_rows(f"selections, d_model {d_model}, {tokens} tokens", numbers["selections"])
    print(json.dumps(numbers))
    _write_json(json_file, numbers)


@import_.command("openai")
def import_openai(
    source: Annotated[str, typer.Argument(metavar="DIRECTORY|NAME", help="A released model, or its name to fetch it.")],
    out: Annotated[Path, typer.Option(callback=_directory_to_write, help="Model directory to write.")],
    downloads: Annotated[
        Path | None, typer.Option(help="Where a fetched model is kept; OUT/release if left out.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Open a model of the paper's release: beeg_config.json and final_model.pt, with its tokenizer if it is there."""
    from openwork.interop import openai
    from openwork.progress import download_progress

    directory, name = Path(source), None
    if not directory.is_dir():
        name = source
        with download_progress(console) as progress:
            directory = openai.download(source, downloads or out / "release", progress=progress)
    _save_imported(openai.load(directory), out, openai.about(name), json_file)


@import_.command("gpt2")
def import_gpt2(
    source: Annotated[
        str, typer.Argument(metavar="DIRECTORY|NAME", help="A GPT-2 model of transformers, or its name.")
    ],
    out: Annotated[Path, typer.Option(callback=_directory_to_write, help="Model directory to write.")],
    json_file: Json = None,
) -> None:
    """Open a dense GPT-2 model of transformers, so that it can be pruned, verified and compared."""
    from openwork.interop import huggingface

    _save_imported(huggingface.load_gpt2(source), out, {"source": f"GPT-2 model {source} of transformers"}, json_file)


@import_.command("circuit")
def import_circuit(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="The release's viz_data.pt.")],
    model: Annotated[Path, typer.Option(callback=_model_directory, help="Model directory of the circuit.")],
    task: Annotated[str, typer.Option(help="Name of the task to measure it on.")],
    out: Annotated[Path, typer.Option(callback=_file_to_write, help="Circuit file to write.")],
    means: Annotated[Path | None, typer.Option(help="A .pt file of mean activations; else the model's.")] = None,
    zero: Annotated[bool, typer.Option("--zero", help="Ablate with zero instead of means.")] = False,
    json_file: Json = None,
) -> None:
    """Read a circuit of the paper's release, and measure it on a task."""
    from openwork import tasks as task_list
    from openwork.interop import openai
    from openwork.models import load_model

    loaded = load_model(model)
    posed = task_list.get(task, loaded.tokenizer)
    circuit = openai.load_circuit(source, loaded, posed, means=means, ablation="zero" if zero else "mean")
    circuit.save(out)
    numbers = circuit_numbers(circuit) | {"loss_nodes_ablated": circuit.losses["nodes_ablated"]}
    _print_table(f"circuit {out}", {name: value for name, value in numbers.items() if name != "tried"})
    _write_json(json_file, numbers)


def _save_imported(model: Any, out: Path, about: dict[str, Any], json_file: Path | None) -> None:
    from openwork.interop.card import describe, write_model_card
    from openwork.models import save_model

    save_model(model, out, about=about)
    write_model_card(model, about, out)
    numbers = describe(model)
    _print_table(f"model {out}", numbers)
    _write_json(json_file, numbers)


@export.command("huggingface")
def export_huggingface(
    model: ModelPath,
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="New directory for transformers.")],
) -> None:
    """Write MODEL for transformers: AutoModelForCausalLM and pipeline open it after `import openwork`."""
    from openwork.interop import huggingface
    from openwork.interop.card import about_model
    from openwork.models import load_model

    huggingface.export(load_model(model), directory, about=about_model(model))
    console.print(f"written: {directory}", soft_wrap=True)


@export.command("graph")
def export_graph(
    circuit_path: Annotated[Path, typer.Argument(metavar="CIRCUIT", help="Circuit file.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="A .graphml, .csv or .json (attribution graph) file.")],
    model: Annotated[Path, typer.Option(callback=_model_directory, help="Model directory of the circuit.")],
    prompt: Annotated[str | None, typer.Option(help="The prompt of an attribution graph.")] = None,
) -> None:
    """Write a circuit as a graph: GraphML, CSV, or the public attribution-graph JSON of one prompt."""
    from openwork.interop import attribution, graphs
    from openwork.models import load_model
    from openwork.pruning import load_circuit

    loaded = load_model(model)
    circuit = load_circuit(circuit_path, loaded)
    match out.suffix:
        case ".graphml":
            graphs.write_graphml(circuit, out, loaded.config.d_head)
        case ".csv":
            graphs.write_csv(circuit, out, loaded.config.d_head)
        case ".json" if prompt is not None:
            attribution.write_attribution_graph(circuit, loaded, prompt, out)
        case ".json":
            raise UserError(f"the attribution graph {out} is of one prompt; give --prompt")
        case suffix:
            raise UserError(f"{out} ends in {suffix!r}; give a file that ends in .graphml, .csv or .json")
    console.print(f"written: {out}", soft_wrap=True)


def circuit_numbers(circuit: Any) -> dict[str, Any]:
    """What is reported of a circuit."""
    return {
        "task": circuit.task,
        "reached": circuit.reached,
        "target": circuit.target,
        "loss_unpruned": circuit.losses["unpruned"],
        "loss_circuit": circuit.losses["circuit"],
        "loss_circuit_uncalibrated": circuit.losses["circuit_uncalibrated"],
        "nodes": len(circuit.nodes),
        "possible_nodes": circuit.n_possible_nodes,
        "edges": len(circuit.edges),
        "possible_edges": circuit.n_possible_edges,
        "ablation": circuit.ablation,
        "seed": circuit.seed,
        "tried": list(circuit.tried),
    }


def card_rows(card: Card) -> list[dict[str, Any]]:
    """The card as rows of a table."""
    return [
        {
            "check": check.name,
            "value": check.value,
            "control": "" if check.control is None else check.control,
            "which": check.control_name,
            "bound": check.threshold,
            "passed": "yes" if check.passed else "NO",
        }
        for check in card.checks
    ]


def _print_table(title: str, numbers: dict[str, Any]) -> None:
    table = Table("what", "value", title=title)
    for name, value in numbers.items():
        table.add_row(name.replace("_", " "), escape(_text(value)))
    console.print(table)


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(*(Column(name, overflow="fold") for name in rows[0]), title=title)
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row.values()))
    console.print(table)


def _print_pairs(rows: list[dict[str, Any]]) -> None:
    """Each task with its example, the members beside each other."""
    for row in rows:
        console.print(f"[bold]{escape(row['task'])}[/]: {escape(row['asks to'])}", highlight=False)
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        table.add_row(*(escape(row[member]) for member in ("member A", "member B")))
        console.print(table)
        console.print()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _write_json(path: Path | None, numbers: dict[str, Any]) -> None:
    if path is not None:
        write_atomically(path, json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
