"""What the package promises to those who import it or call it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.resources import files
from types import FunctionType

import pytest
import typer

import openwork
from openwork.cli import app

GROUP = typer.main.get_command(app)


def commands(command, name: str = "openwork"):
    """Every command below `command`, with its full name."""
    yield name, command
    for part, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {part}")


def test_all_is_sorted_and_true():
    assert openwork.__all__ == sorted(openwork.__all__)
    assert all(hasattr(openwork, name) for name in openwork.__all__)
    functions = {name for name, value in vars(openwork).items() if isinstance(value, (type, FunctionType))}
    assert functions - {"__getattr__", "__dir__"} <= set(openwork.__all__)


def test_to_import_it_and_to_ask_for_help_is_not_to_wait_for_pytorch():
    code = "import sys, openwork, openwork.cli; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told == "[]\n"


def test_it_is_typed():
    assert files("openwork").joinpath("py.typed").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="another OpenMP")
@pytest.mark.parametrize(
    ("settings", "spin"),
    [
        ({}, "10000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "30000000000"),
    ],
)
def test_threads_that_wait_give_way_unless_the_user_wants_otherwise(settings, spin):
    rest = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    command = [sys.executable, "-c", "import openwork, torch"]
    told = subprocess.run(
        command, env={**rest, "OMP_DISPLAY_ENV": "verbose", **settings}, capture_output=True, text=True, check=True
    ).stderr
    assert f"GOMP_SPINCOUNT = '{spin}'" in told


@pytest.mark.parametrize("name", [name for name, _ in commands(GROUP)])
def test_every_command_answers_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        app([*name.split()[1:], "--help"], prog_name="openwork")
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "Usage: openwork" in out and "--help" in out


def test_every_command_and_option_says_what_it_is_for():
    for name, command in commands(GROUP):
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", "") or parameter.name == "help", f"{name} {parameter.name}"
