"""The user's own tasks: pairs written down in a JSONL file, or templates in a Python file.

Each line of a JSONL file is a member, ``{"prompt": ..., "right": ..., "wrong": ...}``, two lines after another are a
pair, and what is right in one is wrong in the other. ``"split"`` says which split a pair serves; without it the pairs
are dealt, two of four to train, one to validation and one to held-out. A Python file is laid out as the tasks here:
``DESCRIPTION`` and ``FORMS``; it is executed. A task is named as its file, without the ending.
"""

from __future__ import annotations

import json
import runpy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openwork.corpus import Tokenizer
from openwork.errors import UserError
from openwork.files import read_bytes
from openwork.tasks.base import Task
from openwork.tasks.lint import Linter
from openwork.tasks.sources import Written
from openwork.tasks.templates import SPLITS, Candidate, Form, Split

ENDINGS = (".jsonl", ".py")
KEYS = ("prompt", "right", "wrong")
DEALT: tuple[Split, ...] = ("train", "train", "validation", "held_out")
"""Splits of the pairs of a file that does not say them, over and over."""
FEWEST_WRITTEN = 8
"""Pairs that each split of a written task must have."""


@dataclass(frozen=True)
class Entry:
    """A pair of a JSONL file."""

    lines: tuple[int, int]
    split: Split
    candidate: Candidate
    fault: str = ""
    """What is wrong with it for any tokenizer."""

    @property
    def where(self) -> str:
        return f"lines {self.lines[0]} and {self.lines[1]}"


def written_task(path: Path, tokenizer: Tokenizer) -> Task:
    """The task whose pairs stand in the JSONL file `path`.

    Raises:
        UserError: a line cannot be read, a pair has a fault, or a split has too few pairs.
    """
    entries = linted(read_entries(path), tokenizer)
    faulty = [entry for entry in entries if entry.fault]
    if faulty:
        count = f"{len(faulty)} of {len(entries)} pairs have faults"
        raise UserError(
            f"{path}, {faulty[0].where}: {faulty[0].fault} ({count}; openwork tasks MODEL --lint {path} shows them all)"
        )
    pairs: dict[Split, tuple[Candidate, ...]] = {
        split: tuple(entry.candidate for entry in entries if entry.split == split) for split in SPLITS
    }
    for split in SPLITS:
        if len(pairs[split]) < FEWEST_WRITTEN:
            raise UserError(
                f"{path} has {len(pairs[split])} {split} pairs; each split needs {FEWEST_WRITTEN}, so add more"
            )
    return Task(path.stem, f"pairs of {path.name}", Written(pairs), tokenizer)


def is_file(name: str) -> bool:
    """Whether the name of a task is that of a file."""
    return name.endswith(ENDINGS)


def read_forms(path: Path) -> tuple[str, tuple[Form, ...]]:
    """The DESCRIPTION and FORMS of the Python file `path`.

    Raises:
        UserError: it cannot be read or run, or does not define them.
    """
    read_bytes(path, "task file")
    try:
        defined = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        raise UserError(f"the task file {path} fails: {type(error).__name__}: {error}; mend it") from error
    description, forms = defined.get("DESCRIPTION"), defined.get("FORMS")
    if not isinstance(description, str) or not isinstance(forms, list | tuple) or not forms:
        raise UserError(f'{path} is no task; define DESCRIPTION = "..." and FORMS = (openwork.tasks.Form(...),)')
    for form in forms:
        if not isinstance(form, Form) or not form.templates or not form.held_out:
            raise UserError(
                f"{path}: {form!r:.80} in FORMS is no Form with answers, templates and held_out; make it one"
            )
    return description, tuple(forms)


def linted(entries: list[Entry], tokenizer: Tokenizer) -> list[Entry]:
    """`entries` with the faults that they have for `tokenizer` added to their own."""
    found = Linter(tokenizer)([entry.candidate for entry in entries])
    faults = [fault if isinstance(fault, str) else "" for fault in found]
    return [
        replace(entry, fault="; ".join(filter(None, (entry.fault, fault))))
        for entry, fault in zip(entries, faults, strict=True)
    ]


def read_entries(path: Path) -> list[Entry]:
    """The pairs of the JSONL file `path`, each with the faults that no tokenizer is needed to see.

    Raises:
        UserError: the file or a line cannot be read, or a line has no partner.
    """
    try:
        text = read_bytes(path, "task file").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the task file {path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
    lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    members = [(i, _member(f"{path}, line {i}", line)) for i, line in lines]
    if not members or len(members) % 2:
        raise UserError(f"{path} has {len(members)} lines; two lines make a pair, so give an even number of them")
    dealt = not any("split" in member for _, member in members)
    entries: list[Entry] = []
    before: dict[str, Entry] = {}
    for n, ((i, a), (j, b)) in enumerate(zip(members[::2], members[1::2], strict=True)):
        split = DEALT[n % len(DEALT)] if dealt else a.get("split", "train")
        prompts, answers = (a["prompt"], b["prompt"]), (a["right"], b["right"])
        entry = Entry((i, j), split, Candidate(prompts, answers, ("", ""), None))
        entry = replace(entry, fault="; ".join(_faults(a, b, dealt) + _repeats(entry, before)))
        entries.append(entry)
        before.update({prompt: entry for prompt in prompts if prompt not in before})
    return entries


def _member(where: str, line: str) -> dict[str, Any]:
    """What one line says; `where` names it."""
    try:
        member: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON ({error}); mend it") from error
    shape = 'write {"prompt": "...", "right": "...", "wrong": "..."}, and "split" if you like'
    if not isinstance(member, dict) or not {*KEYS} <= {*member} <= {*KEYS, "split"}:
        found = ", ".join(member) if isinstance(member, dict) else type(member).__name__
        raise UserError(f"{where} has {found or 'nothing'}; {shape}")
    for key, value in member.items():
        if not isinstance(value, str) or not value:
            raise UserError(f"{where}: {key} is {value!r}; it must be a text that is not empty")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise UserError(f"{where}: {key} is {value!r}, with half of a surrogate pair; write the character whole")
    if member.get("split", "train") not in SPLITS:
        raise UserError(f"{where}: there is no split {member['split']!r}; choose one of {', '.join(SPLITS)}")
    return member


def _faults(a: dict[str, Any], b: dict[str, Any], dealt: bool) -> list[str]:
    """What members `a` and `b` get wrong together."""
    faults = []
    if (a["right"], a["wrong"]) != (b["wrong"], b["right"]):
        faults.append(
            f"right and wrong are {a['right']!r} and {a['wrong']!r}, then {b['right']!r} and {b['wrong']!r}; "
            "what is right in one member must be wrong in the other"
        )
    if not dealt and not (a.get("split") and a.get("split") == b.get("split")):
        faults.append("the members name no split or different ones; where one line names a split, all must")
    return faults


def _repeats(entry: Entry, before: dict[str, Entry]) -> list[str]:
    """What `entry` repeats of the pairs `before`, by prompt."""
    for prompt in entry.candidate.prompts:
        if prompt in before:
            other = before[prompt]
            splits = (
                f"as {entry.split}, there as {other.split}" if entry.split != other.split else f"both {entry.split}"
            )
            return [f"the prompt {prompt[-40:]!r} stands in {other.where} already ({splits}); it may come once"]
    return []
