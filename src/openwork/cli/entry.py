"""The command line as a whole: its verbs, and how it ends."""

from __future__ import annotations

import io
import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer

from openwork.cli.bench import bench
from openwork.cli.exchange import export, import_
from openwork.cli.stages import app
from openwork.errors import Interrupted, UserError
from openwork.memory import keep_freed_memory

app.add_typer(bench, name="bench")
app.add_typer(import_, name="import")
app.add_typer(export, name="export")
UsageError: Any = typer.BadParameter.__base__
"""What a command line that cannot be parsed raises; typer does not export it."""
STOPPED = 130
RESUMED = ("demo", "train", "compare")
"""The verbs that go on where they were stopped."""
NO_MEMORY = ("can't allocate memory", "out of memory")
"""What PyTorch says where there is too little; it has no class for it on a CPU."""


def _print_version(asked: bool) -> None:
    if asked:
        print(f"openwork {version('openwork')}, torch {version('torch')}")
        raise typer.Exit


@app.callback()
def _before_any_verb(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end.")
    ] = False,
) -> None:
    """Options of `openwork` itself."""


def main() -> None:
    """Run the command line; what the user can mend ends in one line and status 2."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        _refuse_unreadable(sys.argv[1:])
        _print_anything()
        keep_freed_memory()
        status = app(sys.argv[1:] or ["--help"], prog_name="openwork", standalone_mode=False) or 0
        sys.stdout.flush()
    except UserError as error:
        _end(str(error), 130 if isinstance(error, Interrupted) else 2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # who read our output has gone, so the rest of it goes nowhere
        sys.exit(STOPPED)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        _end(f"{error.strerror or error}{where}; check the path, its rights and the free space", 2)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or any(text in str(error) for text in NO_MEMORY)):
            raise
        _end("this machine has too little memory for these sizes; lower the batch, the context or the model", 2)
    except UsageError as error:
        message = " ".join(error.format_message().split()).rstrip(".") or "which command?"
        _end(f"{message}; see {error.ctx.command_path if error.ctx else 'openwork'} --help", 2)
    if status == STOPPED:
        goes_on = sys.argv[1:2] and sys.argv[1] in RESUMED
        _end("stopped; the same command goes on where it was" if goes_on else "stopped", STOPPED)
    sys.exit(status)


def _print_anything() -> None:
    """A character that the terminal's encoding lacks is printed as its number, and without a stdout nothing is."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it lives as long as the process)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_unreadable(arguments: list[str]) -> None:
    """An empty path would be the current directory, which is hardly meant: mostly a shell variable is not set.

    What is no text cannot be encoded by a tokenizer, nor be written into a model card.
    """
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise UserError(f"the argument {argument!r} is not UTF-8; rename the file, or give the text as UTF-8")
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            raise UserError(f"the argument {argument!r} is empty; give a name or a path")


def _end(message: str, status: int) -> NoReturn:
    print(f"openwork: {message}", file=sys.stderr)
    sys.exit(status)
