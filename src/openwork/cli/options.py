"""What options and arguments have in common, and what is asked of them before the work begins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from openwork.errors import UserError

MOST_SEED = 2**63 - 1 - 2**16
"""Seeds that PyTorch takes, with room to count on from one."""


def file_to_write(path: Path | None) -> Path | None:
    """`path`, if a file can be written there: asked before the work, not after it."""
    if path is None:
        return None
    place = next((parent for parent in path.absolute().parents if parent.exists()), path)
    if path.is_dir() or not place.is_dir() or not os.access(place, os.W_OK):
        why = "is a directory" if path.is_dir() else f"cannot be written in {place}"
        raise UserError(f"the file {path} {why}; choose another place")
    return path


def directory_to_write(path: Path) -> Path:
    """`path`, if it is a directory or can become one."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file, not a directory; choose another place")
    file_to_write(path / "file")
    return path


Json = Annotated[
    Path | None,
    typer.Option("--json", callback=file_to_write, help="Write every number that is printed to this file."),
]
Settings = Annotated[list[str] | None, typer.Argument(help="Settings as key=value, such as model.d_model=256.")]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="TOML or JSON file of settings.")]


def model_directory(path: Path | None) -> Path | None:
    """`path`, or the directory of the model of that name that comes with the package, if nothing lies at `path`."""
    from openwork import models

    return models.path(path) if path is not None and str(path) in models.names() and not path.exists() else path


ModelPath = Annotated[
    Path,
    typer.Argument(metavar="MODEL", callback=model_directory, help="Model directory, or a name of `openwork models`."),
]
