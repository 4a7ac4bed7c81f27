"""The verbs of the way from text to circuit: parse, load, call one function, save, print."""

from __future__ import annotations

from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from openwork.cli.options import (
    MOST_SEED,
    CircuitModel,
    CircuitPath,
    CircuitTask,
    Config,
    Json,
    ModelPath,
    PruneSettings,
    Settings,
    directory_to_write,
    file_to_write,
    model_directory,
    open_circuit,
    to_read,
)
from openwork.cli.output import (
    card_rows,
    circuit_numbers,
    console,
    print_pairs,
    print_rows,
    print_table,
    where_it_fails,
    write_json,
)
from openwork.errors import UserError
from openwork.files import write_atomically

if TYPE_CHECKING:
    from openwork.artifacts import Circuit
    from openwork.model import Transformer
    from openwork.tasks import Task

app = typer.Typer(
    help="Train language models whose wiring people can read, find their circuits, and test them.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
COIN = log(2)
"""The loss of a coin, in nats: a target that is no lower asks for nothing."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(callback=directory_to_write, help="Directory of the results.")] = Path(
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

    if pretrained and seed:
        raise UserError(f"nothing is trained or searched with --pretrained; leave --seed {seed} out")
    if pretrained:
        summary = run_pretrained(out / "pretrained", console=console, open_page=open_page)
    else:
        summary = run_demo(out, DemoConfig(train_config(seed)), console=console, open_page=open_page)
    write_json(json_file, summary)


@app.command()
def corpus(
    source: Annotated[
        str,
        typer.Argument(
            callback=to_read,
            help="stdlib, idioms, a directory or file, FILE.jsonl#column, hub:OWNER/NAME, "
            "or a mixture such as stdlib:0.5,idioms:0.5.",
        ),
    ],
    out: Annotated[Path, typer.Option(callback=directory_to_write, help="Directory of the corpus.")],
    d_vocab: Annotated[int | None, typer.Option(help="Size of the vocabulary to train, by default 2048.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(callback=to_read, help="A tokenizer.json to use instead.")] = None,
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
    print_table(f"corpus {out}", numbers)
    write_json(json_file, numbers)


@app.command()
def train(
    corpus_path: Annotated[
        Path, typer.Argument(metavar="CORPUS", callback=to_read, help="Directory that `openwork corpus` wrote.")
    ],
    out: Annotated[Path, typer.Option(callback=directory_to_write, help="Model directory to write.")],
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
    print_table(f"model {out}", {name: value for name, value in numbers.items() if not isinstance(value, dict)})
    write_json(json_file, numbers)


@app.command()
def tasks(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]", callback=model_directory, help="Model directory: show its loss on each task."
        ),
    ] = None,
    file: Annotated[
        list[str] | None,
        typer.Option(callback=to_read, help="A task of your own, .jsonl or .py, beside the others.", metavar="FILE"),
    ] = None,
    lint: Annotated[
        str | None,
        typer.Option(callback=to_read, help="Say what is wrong with FILE for the tokenizer of MODEL.", metavar="FILE"),
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
    loaded = load_model(model) if model else None
    if loaded:
        for own in file or ():
            task_list.get(own, loaded.tokenizer)  # what cannot be had ends here, not as a row among twenty
    if loaded:
        with console.status("trying") as status:
            rows = try_tasks(loaded, names, report=lambda name: status.update(escape(name)))
        print_rows("tasks", rows)
    else:
        rows = list_tasks(names)
        print_pairs(rows)
    write_json(json_file, {"tasks": rows})


def _lint(file: str, model: Path | None, json_file: Path | None) -> None:
    """Print the faults of the task in `file`; one is enough for status 2."""
    from openwork.models import load_model
    from openwork.tasks.survey import lint_task

    if model is None:
        raise UserError(f"--lint {file} needs a MODEL, whose tokenizer decides; give its directory")
    rows = lint_task(file, load_model(model).tokenizer)
    write_json(json_file, {"file": file, "pairs": rows})
    faulty = [row for row in rows if row["fault"]]
    if faulty:
        print_rows(file, faulty)
        raise UserError(f"{len(faulty)} of {len(rows)} in {file} have faults; mend them")
    console.print(f"{file}: no faults in {len(rows)}")


@app.command()
def models(json_file: Json = None) -> None:
    """List the models that come with the package; their names may stand wherever a model directory may."""
    from openwork.models import list_models

    rows = list_models()
    print_rows("models", [{k: v for k, v in row.items() if k not in ("circuits", "directory")} for row in rows])
    for row in rows:
        console.print(f"{row['name']}: {row['directory']}", soft_wrap=True, highlight=False)
        console.print(f"  circuits: {', '.join(row['circuits']) or 'none'}", soft_wrap=True, highlight=False)
    write_json(json_file, {"models": rows})


@app.command()
def prune(
    ctx: typer.Context,
    model: ModelPath,
    task: Annotated[
        str, typer.Argument(callback=to_read, help="Name of a task (see `openwork tasks`), or a .jsonl or .py file.")
    ],
    out: Annotated[Path, typer.Option(callback=file_to_write, help="Circuit file to write.")],
    settings: PruneSettings = None,
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
    corpus: Annotated[
        Path | None, typer.Option(callback=to_read, help="Corpus for the mean activations, if the model has none.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Find the circuit by which MODEL performs TASK; with --targets, one for each (OUT with the target in its name)."""
    from dataclasses import replace

    from openwork import tasks as task_list
    from openwork.config import numbers_in, read_config
    from openwork.corpus import open_corpus
    from openwork.models import load_model, save_means
    from openwork.progress import pruning_progress
    from openwork.pruning import PruneConfig, baselines, draw_curve, prune_to_targets
    from openwork.training import corpus_means

    wanted = read_config(PruneConfig, config, settings or ())
    if targets and wanted.target != PruneConfig.target:
        raise UserError(f"target={wanted.target:g} and --targets {targets} ask for different things; leave one out")
    losses = numbers_in(targets, "--targets") if targets else [wanted.target]
    files = {target: out.with_name(f"{out.stem}-{target:g}{out.suffix}") if targets else out for target in losses}
    for file in (*files.values(), out.with_suffix(".png")) if targets else ():
        file_to_write(ctx, file)
    loaded = load_model(model)
    texts = open_corpus(corpus) if corpus is not None else None
    posed = task_list.get(task, loaded.tokenizer)
    if texts is not None and not loaded.means:
        loaded.means = corpus_means(loaded, texts)
        save_means(loaded, model)
    with pruning_progress(console) as report:
        circuits = prune_to_targets(loaded, posed, losses, seed=seed, seeds=seeds, config=wanted, report=report)
        compared = []
        for target in sorted(losses) if with_baselines else ():
            compared += baselines(loaded, posed, seed=seed, config=replace(wanted, target=target), report=report)
    numbers = []
    for circuit in circuits:
        circuit.save(files[circuit.target])
        numbers.append(circuit_numbers(circuit))
        _print_found(files[circuit.target], circuit, numbers[-1])
    if targets is not None:
        draw_curve(circuits, out.with_suffix(".png"))
        console.print(f"curve: {out.with_suffix('.png').resolve()}")
    if compared:
        print_rows("without a search", compared)
    told = numbers[0] if targets is None else {"circuits": numbers}
    write_json(json_file, {**told, "baselines": compared} if compared else told)


def _print_found(path: Path, circuit: Circuit, numbers: dict[str, Any]) -> None:
    """What a search has found and written to `path`, and a word where that is less than it looks."""
    print_table(f"circuit {path}", {k: v for k, v in numbers.items() if k != "tried"})
    print_rows("searches", numbers["tried"])
    if not circuit.reached:
        missed = f"target not reached: {circuit.losses['circuit']:.3f} nats, the target is {circuit.target}"
        console.print(missed, style="bold red")
    if circuit.target >= COIN:
        console.print(f"a target of {circuit.target:g} nats asks for nothing: a coin has {COIN:.3f}", style="bold red")


def _task_of(circuit: Circuit, given: str | None, model: Transformer) -> Task:
    """The task that was `given`, else the circuit's own. No file that a circuit names is opened: a .py file is run."""
    from openwork import tasks as task_list
    from openwork.tasks.base import NONSENSE

    if given is None and circuit.task.removesuffix(NONSENSE) not in task_list.names():
        raise UserError(f"the circuit is of a task of its maker's, {circuit.task!r}; give the task's file with --task")
    return task_list.get(given or circuit.task, model.tokenizer)


@app.command()
def verify(
    circuit_path: CircuitPath,
    model: CircuitModel = None,
    task: CircuitTask = None,
    out: Annotated[Path | None, typer.Option(callback=file_to_write, help="Write the card to this JSON file.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the random circuits.")] = 0,
    json_file: Json = None,
) -> None:
    """Test whether a circuit is what the model really does, beside controls that could say no."""
    from dataclasses import asdict

    from openwork.faithfulness import verify as run

    circuit, loaded = open_circuit(circuit_path, model)
    with console.status("checking") as status:
        card = run(
            circuit,
            _task_of(circuit, task, loaded),
            seed=seed,
            report=status.update,
        )
    if out is not None:
        card.save(out)
    print_rows(f"card of {circuit.task}", card_rows(card))
    for name, rows in where_it_fails(card).items():
        print_rows(f"{name}: where the loss is greatest, nats", rows)
    write_json(json_file, asdict(card))


@app.command()
def view(
    circuit_path: CircuitPath,
    corpus: Annotated[Path, typer.Option(callback=to_read, help="Corpus whose texts the nodes show.")],
    model: CircuitModel = None,
    card: Annotated[Path | None, typer.Option(callback=to_read, help="Card to show.")] = None,
    task: CircuitTask = None,
    out: Annotated[Path, typer.Option(callback=file_to_write, help="HTML file to write.")] = Path("page.html"),
    svg: Annotated[
        Path | None,
        typer.Option(callback=file_to_write, help="Save the drawing as this SVG (needs Chromium or Chrome)."),
    ] = None,
) -> None:
    """Write the page of a circuit: one HTML file that needs no network."""
    from openwork.artifacts import load_card
    from openwork.corpus import open_corpus
    from openwork.viewer import picture, write_page

    circuit, loaded = open_circuit(circuit_path, model)
    posed = _task_of(circuit, task, loaded)
    write_page(out, circuit, posed, load_card(card) if card else None, loaded, open_corpus(corpus))
    console.print(f"page: {out.resolve()}", soft_wrap=True)
    if svg is not None:
        picture(out, svg)
        console.print(f"drawing: {svg.resolve()}", soft_wrap=True)


@app.command()
def explain(
    circuit_path: CircuitPath,
    model: CircuitModel = None,
    corpus: Annotated[
        Path | None, typer.Option(callback=to_read, help="Corpus in which the nodes are watched too.")
    ] = None,
    task: CircuitTask = None,
    out: Annotated[Path | None, typer.Option(callback=file_to_write, help="Write the text to this file.")] = None,
    program: Annotated[
        Path | None, typer.Option(callback=file_to_write, help="Write the circuit to this file, as a numpy program.")
    ] = None,
    json_file: Json = None,
) -> None:
    """Tell a circuit as text, from the tokens to the answer, and write it as a Python program."""
    from openwork import explain as told
    from openwork.corpus import open_corpus

    circuit, loaded = open_circuit(circuit_path, model)
    posed = _task_of(circuit, task, loaded)
    texts = open_corpus(corpus) if corpus is not None else None
    with console.status("writing the program") as status:
        # first, because not all wirings have a program
        written = told.write_program(circuit, loaded, posed) if program is not None else None
        status.update("watching the circuit")
        seen = told.see(circuit, loaded, posed, texts)
        text, numbers = told.to_text(seen, posed.tokenizer.tokens), told.to_numbers(seen)
    if program is not None and written is not None:
        source, numbers["program"] = written
        write_atomically(program, source)
    if out is not None:
        write_atomically(out, text)
    write_json(json_file, numbers)
    console.out(text, end="", highlight=False)
    if program is not None:
        console.print(f"program: {program.resolve()}", soft_wrap=True)


@app.command()
def compare(
    sparse: Annotated[
        Path,
        typer.Argument(metavar="SPARSE", callback=model_directory, help="Model directory of the weight-sparse model."),
    ],
    dense: Annotated[
        Path, typer.Argument(metavar="DENSE", callback=model_directory, help="Model directory of the dense one.")
    ],
    out: Annotated[Path, typer.Option(callback=directory_to_write, help="Directory of the circuits and the figure.")],
    settings: PruneSettings = None,
    config: Config = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Searches per task and model; each is shown.")] = 1,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be given again.")] = None,
    no_search: Annotated[
        bool, typer.Option("--no-search", help="Take the circuits that lie with the models, look for no others.")
    ] = False,
    json_file: Json = None,
) -> None:
    """Prune both models on all tasks that both can do: edges and nodes by task, means, and the ratio."""
    from openwork.config import read_config
    from openwork.frontier import compare as run
    from openwork.frontier import draw_comparison
    from openwork.models import circuits, load_model
    from openwork.progress import pruning_progress
    from openwork.pruning import PruneConfig

    wanted = read_config(PruneConfig, config, settings or ())
    models = load_model(sparse), load_model(dense)
    with pruning_progress(console) as report:
        compared = run(
            *models,
            out,
            names=task,
            seeds=range(seed, seed + seeds),
            config=wanted,
            at_hand={"sparse": circuits(sparse), "dense": circuits(dense)} if no_search else None,
            report=report,
        )
    numbers = compared.summary()
    draw_comparison(compared, out / "comparison.png")
    write_json(out / "comparison.json", numbers)
    print_rows(f"sparse / dense, circuits at {wanted.target:g} nats", compared.rows())
    print_rows("geometric means over the tasks that reached the target in both", compared.means())
    console.print(f"figure: {(out / 'comparison.png').resolve()}", soft_wrap=True)
    write_json(json_file, numbers)
