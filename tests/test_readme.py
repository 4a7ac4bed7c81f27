"""The README's file map names what is there, all of it, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from openwork.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
INTEROP = (ROOT / "docs/interop.md").read_text(encoding="utf-8")
UNMAPPED = {"__init__.py", "__init__.pyi", "__main__.py", "py.typed", "__pycache__"}


def test_the_file_map_is_true_and_whole():
    mapped = set(re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE))
    assert not [place for place in mapped if not (ROOT / place).exists()]
    package = {
        path.relative_to(ROOT).as_posix() + "/" * path.is_dir()
        for path in (ROOT / "src/openwork").iterdir()
        if path.name not in UNMAPPED
    }
    assert package <= mapped


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_every_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_every_command_and_option_that_it_shows_is_there():
    commands = typer.main.get_command(app).commands
    shown = re.findall(r"^    openwork (\w+)(.*?)(?:  #.*)?$", README + INTEROP, re.MULTILINE)
    assert len(shown) >= 7
    for name, rest in shown:
        command = commands[name]
        if parts := getattr(command, "commands", None):  # such as import openai
            command = parts[rest.split()[0]]
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--\w[\w-]*", rest)) <= options, name
