"""The files below a directory but for what .gitignore files exclude: its own, nested ones, those of its repository."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec

Note = Callable[[Path, str], None]
IGNORE_FILE = ".gitignore"


class Rules(NamedTuple):
    """What one .gitignore says, and of which directory."""

    base: Path
    spec: GitIgnoreSpec


def rules_of(base: Path, lines: Iterable[str]) -> Rules:
    """The rules that a .gitignore of these `lines` in `base` would give."""
    return Rules(base, GitIgnoreSpec.from_lines(lines))


def rules_above(root: Path) -> list[Rules]:
    """The rules from above `root` that hold in it, up to its repository; none if they exclude `root` itself."""
    root = root.resolve()
    repository = next((place for place in (root, *root.parents) if os.path.exists(place / ".git")), root)
    places = [place for place in reversed(root.parents) if place.is_relative_to(repository)]
    rules = [rules for place in places for rules in _read_rules(place, lambda path, reason: None)]
    return [] if any(_is_ignored(place, True, rules) for place in (*places[1:], root)) else rules


def walk(root: Path, extensions: Sequence[str], rules: list[Rules], note: Note) -> Iterator[Path]:
    """The regular files below `root` that end in one of `extensions`, but for those ignored and for .git.

    Links to directories are not followed. What cannot be listed or read goes to `note`, with the reason.
    """
    ahead = [(root, rules)]
    while ahead:
        place, rules = ahead.pop()
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            note(place, error.strerror or str(error))
            continue
        rules = rules + _read_rules(place, note)
        for path in entries:
            is_directory = os.path.isdir(path)
            if path.name == ".git" or _is_ignored(path, is_directory, rules):
                continue
            if is_directory and not path.is_symlink():
                ahead.append((path, rules))
            elif not is_directory and path.name.endswith(tuple(extensions)):
                if os.path.isfile(path):
                    yield path
                else:
                    note(path, "a broken link" if path.is_symlink() else "no regular file, or no rights to look at it")


def _read_rules(place: Path, note: Note) -> list[Rules]:
    """What the .gitignore in `place` says, if there is one."""
    path = place / IGNORE_FILE
    if not os.path.isfile(path):
        return []
    try:
        return [rules_of(place, path.read_text(encoding="utf-8", errors="replace").splitlines())]
    except (OSError, ValueError) as error:  # a pattern that is none
        note(path, f"its rules are not used: {error}")
        return []


def _is_ignored(path: Path, is_directory: bool, rules: list[Rules]) -> bool:
    """Whether the innermost of `rules` that speaks of `path` excludes it."""
    for base, spec in reversed(rules):
        if not path.is_relative_to(base):
            continue
        verdict = spec.check_file(path.relative_to(base).as_posix() + "/" * is_directory).include
        if verdict is not None:
            return verdict
    return False
