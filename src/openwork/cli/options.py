"""What options and arguments have in common, and what is asked of them before the work begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from openwork.errors import UserError

if TYPE_CHECKING:
    from openwork.artifacts import Circuit
    from openwork.model import Transformer

MOST_SEED = 2**63 - 1 - 2**16
"""Seeds that PyTorch takes, with room to count on from one."""


CLAIMED = "openwork.paths"
"""Where a command keeps what was given to it to read and to write."""
PARTS = ("config.json", "weights.safetensors", "tokenizer.json", "means.safetensors", "metrics.jsonl", "manifest.json")
"""The files of a model and of a corpus, which also has its tokens in ``.bin`` files."""


def file_to_write(ctx: typer.Context, path: Path | None) -> Path | None:
    """`path`, if a file can be written there: asked before the work, not after it."""
    if path is not None:
        if path.is_dir():
            raise UserError(f"the file {path} is a directory; choose another place")
        _check_place(path, "file")
        _claim(ctx, path, "file")
    return path


def directory_to_write(ctx: typer.Context, path: Path | None) -> Path | None:
    """`path`, if it is a directory or can become one."""
    if path is None:
        return None
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a directory; choose another place")
    _check_place(path, "directory")
    _claim(ctx, path, "directory")
    return path


def to_read(ctx: typer.Context, path: Any) -> Any:
    """`path`, or the name of a task, source or model, or several; a path that the same command writes is refused."""
    for one in path if isinstance(path, list) else [path]:
        if one is not None and (isinstance(one, Path) or Path(one).suffix or Path(one).is_dir()):
            _claim(ctx, one if isinstance(one, Path) else one.partition("#")[0], "read")
    return path


def _check_place(path: Path, what: str) -> None:
    above = path.absolute().parents
    place = path if path.is_dir() else next((parent for parent in above if parent.exists()), path)
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise UserError(f"the {what} {path} cannot be written in {place}; choose another place")


def _claim(ctx: typer.Context, path: Path | str, use: Literal["read", "file", "directory"]) -> None:
    """Refuse to write a file or a directory where the same command reads, or writes something else; options may come
    in any order.
    """
    claimed: dict[Path, str] = ctx.meta.setdefault(CLAIMED, {})
    place = Path(path).resolve()
    if place in claimed and (use, claimed[place]) != ("read", "read"):
        raise UserError(
            f"{path} is given twice, and one would be written over the other; choose another place to write"
        )
    claimed[place] = use
    for written in (place for place, use in claimed.items() if use != "read"):
        if claimed.get(written.parent) == "read" and (written.name in PARTS or written.suffix == ".bin"):
            raise UserError(f"{written} is a part of {written.parent}, which is read; choose another place to write")
        around = [directory for directory in written.parents if claimed.get(directory) == "directory"]
        if claimed[written] == "file" and around:
            raise UserError(f"{written} lies in {around[0]}, which this command writes; choose another place for it")


Json = Annotated[
    Path | None,
    typer.Option("--json", callback=file_to_write, help="Write every number that is printed to this file."),
]
Settings = Annotated[list[str] | None, typer.Argument(help="Settings as key=value, such as model.d_model=256.")]
PruneSettings = Annotated[list[str] | None, typer.Argument(help="Settings as key=value, such as target=0.05.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", callback=to_read, help="TOML or JSON file of settings.")]


def model_directory(ctx: typer.Context, path: Path | None) -> Path | None:
    """`path`, or the directory of the model of that name that comes with the package."""
    from openwork import models

    return to_read(ctx, None if path is None else models.find(path))


def circuit_model(ctx: typer.Context, path: Path | None) -> Path | None:
    """`model_directory`, for a command that may read a circuit that lies with the model: none is written over."""
    from openwork.models import circuits

    directory = model_directory(ctx, path)
    for file in circuits(directory).values() if directory else ():
        _claim(ctx, file, "read")
    return directory


def open_circuit(path: Path, model: Path | None) -> tuple[Circuit, Transformer]:
    """The circuit in the file at `path`, or of that name among those that lie with `model`; and its model.

    Without `model` it is the one that the circuit lies with: MODEL/circuits/NAME.circuit.
    """
    from openwork.models import circuits, load_model
    from openwork.pruning import load_circuit

    if model is None:
        place = Path(os.path.abspath(path))
        model = place.parents[1] if len(place.parts) > 2 else place
        if place not in circuits(model).values() or not (model / "config.json").is_file():
            raise UserError(f"{path} lies in no model's circuits, so say with --model of which model the circuit is")
    elif not path.exists():
        known = circuits(model)
        if str(path) in known:
            path = known[str(path)]
        elif known and len(path.parts) == 1 and not path.suffix:
            raise UserError(f"the model {model} has no circuit {path}; it has {', '.join(known)}")
    loaded = load_model(model)
    return load_circuit(path, loaded), loaded


CircuitPath = Annotated[
    Path,
    typer.Argument(
        metavar="CIRCUIT", callback=to_read, help="Circuit file, or the name of one that lies with the model."
    ),
]
CircuitModel = Annotated[
    Path | None,
    typer.Option("--model", callback=circuit_model, help="Model of the circuit; by default the one that it lies with."),
]
CircuitTask = Annotated[
    str | None,
    typer.Option("--task", callback=to_read, help="The circuit's task, where it is your own: the .jsonl or .py file."),
]
ModelPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", callback=model_directory, help="Model directory, or a name of `openwork models`."),
]
