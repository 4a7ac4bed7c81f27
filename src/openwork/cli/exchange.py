"""The verbs that open models and circuits of others, and write ours for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from openwork.cli.options import (
    CircuitModel,
    CircuitPath,
    Json,
    ModelPath,
    directory_to_write,
    file_to_write,
    model_directory,
    open_circuit,
    to_read,
)
from openwork.cli.output import circuit_numbers, console, print_table, write_json
from openwork.errors import UserError
from openwork.files import read_json

import_ = typer.Typer(help="Open models and circuits of others.")
export = typer.Typer(help="Write models and circuits for other tools.")
GRAPHS = (".graphml", ".csv", ".json")
"""Endings of the files that a circuit can be written to."""


@import_.command("openai")
def import_openai(
    source: Annotated[
        str,
        typer.Argument(metavar="DIRECTORY|NAME", callback=to_read, help="A released model, or its name to fetch it."),
    ],
    out: Annotated[Path, typer.Option(callback=directory_to_write, help="Model directory to write.")],
    downloads: Annotated[
        Path | None,
        typer.Option(callback=directory_to_write, help="Where a fetched model is kept; OUT/release if left out."),
    ] = None,
    json_file: Json = None,
) -> None:
    """Open a model of the paper's release: beeg_config.json and final_model.pt, with its tokenizer if it is there."""
    from openwork.interop import openai
    from openwork.progress import download_progress

    _check_not_other(out)
    directory, name = Path(source), None
    if directory.is_dir() and downloads is not None:
        raise UserError(f"{source} is a directory, of which nothing is fetched; leave --downloads {downloads} out")
    if not directory.is_dir():
        name = source
        with download_progress(console) as progress:
            directory = openai.download(source, downloads or out / "release", progress=progress)
    _save_imported(openai.load(directory), out, openai.about(name), json_file)


@import_.command("gpt2")
def import_gpt2(
    source: Annotated[
        str,
        typer.Argument(metavar="DIRECTORY|NAME", callback=to_read, help="A GPT-2 model of transformers, or its name."),
    ],
    out: Annotated[Path, typer.Option(callback=directory_to_write, help="Model directory to write.")],
    json_file: Json = None,
) -> None:
    """Open a dense GPT-2 model of transformers, so that it can be pruned, verified and compared."""
    from openwork.interop import huggingface

    _check_not_other(out)
    _save_imported(huggingface.load_gpt2(source), out, {"source": f"GPT-2 model {source} of transformers"}, json_file)


@import_.command("circuit")
def import_circuit(
    source: Annotated[Path, typer.Argument(metavar="FILE", callback=to_read, help="The release's viz_data.pt.")],
    model: Annotated[Path, typer.Option(callback=model_directory, help="Model directory of the circuit.")],
    task: Annotated[str, typer.Option(callback=to_read, help="The task to measure it on.")],
    out: Annotated[Path, typer.Option(callback=file_to_write, help="Circuit file to write.")],
    means: Annotated[
        Path | None, typer.Option(callback=to_read, help="A .pt file of mean activations; else the model's.")
    ] = None,
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
    print_table(f"circuit {out}", {name: value for name, value in numbers.items() if name != "tried"})
    write_json(json_file, numbers)


def _check_not_other(out: Path, own: str | None = None) -> None:
    """Refuse to import over another model: `out` may hold that of the hash `own`, or, unless it is known, any."""
    if (out / "config.json").is_file():
        found = read_json(out / "config.json", "model config")
        if found.get("kind") != "model" or (own is not None and found.get("hash") != own):
            raise UserError(f"{out} holds another model, which would be lost; give another --out, or delete it")
    elif (out / "README.md").exists():
        raise UserError(f"{out} has a README.md, which would be lost; give another --out")


def _save_imported(model: Any, out: Path, about: dict[str, Any], json_file: Path | None) -> None:
    from openwork.interop.card import describe, write_model_card
    from openwork.models import save_model

    _check_not_other(out, model.hash)
    save_model(model, out, about=about)
    write_model_card(model, about, out)
    numbers = describe(model)
    print_table(f"model {out}", numbers)
    if model.tokenizer is None:
        console.print("no tokenizer was found with it: tasks and prompts cannot be given to it", soft_wrap=True)
    write_json(json_file, numbers)


@export.command("huggingface")
def export_huggingface(
    model: ModelPath,
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", callback=directory_to_write, help="New directory for transformers.")
    ],
) -> None:
    """Write MODEL for transformers: AutoModelForCausalLM and pipeline open it after `import openwork`."""
    from openwork.interop import huggingface
    from openwork.interop.card import about_model
    from openwork.models import load_model

    huggingface.check_new(directory)
    huggingface.export(load_model(model), directory, about=about_model(model))
    console.print(f"written: {directory}", soft_wrap=True)


@export.command("graph")
def export_graph(
    circuit_path: CircuitPath,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", callback=file_to_write, help="A .graphml, .csv or .json (attribution graph) file."
        ),
    ],
    model: CircuitModel = None,
    prompt: Annotated[str | None, typer.Option(help="The prompt of an attribution graph.")] = None,
) -> None:
    """Write a circuit as a graph: GraphML, CSV, or the public attribution-graph JSON of one prompt."""
    from openwork.interop import attribution, graphs

    if out.suffix not in GRAPHS:
        raise UserError(f"{out} ends in {out.suffix!r}; give a file that ends in {', '.join(GRAPHS)}")
    if out.suffix == ".json" and prompt is None:
        raise UserError(f"the attribution graph {out} is of one prompt; give --prompt")
    if out.suffix != ".json" and prompt is not None:
        raise UserError(f"{out} is the graph of all prompts; leave --prompt out, or give a file that ends in .json")
    circuit, loaded = open_circuit(circuit_path, model)
    if prompt is not None:
        attribution.write_attribution_graph(circuit, loaded, prompt, out)
    elif out.suffix == ".csv":
        graphs.write_csv(circuit, out, loaded.config.d_head)
    else:
        graphs.write_graphml(circuit, out, loaded.config.d_head)
    console.print(f"written: {out}", soft_wrap=True)
