"""The package as others see it: its names, its types, its commands."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from importlib.resources import files

import pytest

import openwork
from openwork import cli

COMMANDS = ("demo", "corpus", "train", "tasks", "prune", "verify", "view", "bench", "bench train")
"""The commands of the surface that exist."""


def test_all_is_sorted_and_true():
    assert openwork.__all__ == sorted(openwork.__all__)
    assert len(set(openwork.__all__)) == len(openwork.__all__)
    for name in openwork.__all__:
        assert getattr(openwork, name) is not None
    public = {name for name, value in vars(openwork).items() if not name.startswith("_") and callable(value)}
    assert public <= set(openwork.__all__)


def test_what_the_readme_of_the_surface_names_is_there():
    assert {"load_model", "load_circuit", "prune", "verify", "tasks", "models"} <= set(openwork.__all__)
    assert callable(openwork.tasks.get)


def test_the_types_travel_with_the_package():
    assert (files("openwork") / "py.typed").is_file()


def test_the_command_is_installed_under_its_name():
    entry = {point.name: point.value for point in importlib.metadata.entry_points(group="console_scripts")}
    assert entry["openwork"] == "openwork.cli:main"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_help(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["openwork", *command.split(), "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    shown = capsys.readouterr()
    assert f"openwork {command}" in shown.out and shown.err == ""


def test_no_command_is_left_out_of_this_test():
    known = {command.callback.__name__ for command in cli.app.registered_commands if command.callback}
    groups = {group.name for group in cli.app.registered_groups}
    assert known | groups == {command.partition(" ")[0] for command in COMMANDS}


@pytest.mark.slow
def test_the_package_is_imported_without_a_word():
    ended = subprocess.run([sys.executable, "-W", "error", "-c", "import openwork"], capture_output=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
