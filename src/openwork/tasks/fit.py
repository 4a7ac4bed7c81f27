"""Fits a task to a tokenizer: takes the form, templates and names that it cuts as a binary choice needs."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from openwork.corpus import Tokenizer
from openwork.errors import UserError
from openwork.tasks.base import Task
from openwork.tasks.lint import Linter
from openwork.tasks.sources import Templates
from openwork.tasks.templates import SPLITS, Candidate, Form, Split, Words, draw, words_of

MEND = "use another task, or a tokenizer with a larger vocabulary or learnt from Python code"
TRIALS = 16
"""Pairs on which a template is tried, with the words of each split that it serves."""
LINTED = 64
"""As many where the user asks for its faults."""
NEEDED = 2
"""Of these, pairs without fault that a template needs to be used."""
FEWEST_NAMES = 8
"""Single-token names that a split needs where names are the answers."""
FEWEST_PAIRS = 64
"""Different pairs that each split must have."""


def fit(name: str, description: str, forms: tuple[Form, ...], tokenizer: Tokenizer) -> Task:
    """The task in the first of `forms` that suits `tokenizer`, without the templates that don't.

    Raises:
        UserError: no form suits; the message says what fails in the first.
    """
    failures: list[UserError] = []
    for form in forms:
        try:
            words: dict[Split, Words] = {split: words_for(name, form, split, tokenizer) for split in SPLITS}
            usable, left_out = _suited(name, form, words, tokenizer)
            task = Task(name, description, Templates(usable, words), tokenizer, left_out)
            _check_number(task)
            return task
        except UserError as failure:
            failures.append(failure)
    raise failures[0]


def _check_number(task: Task) -> None:
    for split in SPLITS:
        found = len(set(task.pairs(split, FEWEST_PAIRS).prompts))
        if found < FEWEST_PAIRS:
            raise UserError(
                f"task {task.name} has only {found} different {split} pairs with this tokenizer, "
                f"it needs {FEWEST_PAIRS}; {MEND}"
            )


def words_for(name: str, form: Form, split: Split, tokenizer: Tokenizer) -> Words:
    """The words of `split`; where arguments are answers, those of one token, with which ``.argument`` is one or two."""
    words = words_of(split)
    if "$arg" not in "".join(form.answers):
        return words
    kept: dict[int, list[str]] = {1: [], 2: []}
    for arg in words.arg:
        alone, spaced, dotted = (tokenizer.encode(before + arg) for before in ("", " ", "."))
        if len(alone) == len(spaced) == 1 and (len(dotted) == 1 or dotted == [*tokenizer.encode("."), *alone]):
            kept[len(dotted)].append(arg)
    most = max(kept.values(), key=len)  # of one kind, so that prompts are as long
    if len(most) < FEWEST_NAMES:
        raise UserError(
            f"task {name}: only {len(most)} of {len(words.arg)} {split} names are single tokens of this tokenizer, "
            f"it needs {FEWEST_NAMES}; {MEND}"
        )
    return replace(words, arg=tuple(most))


def _suited(name: str, form: Form, words: dict[Split, Words], tokenizer: Tokenizer) -> tuple[Form, tuple[str, ...]]:
    """`form` with only the templates that suit `tokenizer`, and the others, each with its reason."""
    faults = template_faults(form, words, Linter(tokenizer))
    templates, held_out = (
        tuple(template for template in form.of(split) if template not in faults) for split in ("train", "held_out")
    )
    if not templates or not held_out:
        raise UserError(f"task {name} does not suit this tokenizer: {min(faults.values())}; {MEND}")
    return Form(form.answers, templates, held_out), tuple(f"{template!r}: {faults[template]}" for template in faults)


def template_faults(form: Form, words: dict[Split, Words], linter: Linter) -> dict[str, str]:
    """For each template whose pairs mostly have a fault, a pair and its fault, in words."""
    faults = {}
    for split in SPLITS:
        for template in form.of(split):
            bad = [fault for _, fault in _tried(template, form, words[split], linter, TRIALS) if fault]
            if len(bad) > TRIALS - NEEDED:
                faults[template] = bad[0]
    return faults


def linted_templates(form: Form, words: dict[Split, Words], linter: Linter) -> list[tuple[str, str, str]]:
    """Each template with the splits that it serves and its faults in words.

    They are those of its pairs (how many, and the first), and what it shares with another split.
    """
    linted: list[tuple[str, str, str]] = []
    drawn: dict[str, Split] = {}
    """The split for which a prompt was drawn first."""
    for splits, templates in ((SPLITS[:2], form.templates), (SPLITS[2:], form.held_out)):
        for template in templates:
            tried: list[tuple[Split, Candidate, str]] = [
                (split, pair, fault)
                for split in splits
                for pair, fault in _tried(template, form, words[split], linter, LINTED)
            ]
            bad = [fault for _, _, fault in tried if fault]
            faults = [f"{len(bad)} of {len(tried)} pairs have faults, the first {bad[0]}"] if bad else []
            twice = [
                f"the prompt {prompt!r} is drawn for {drawn[prompt]} and for {split}; it may serve one split"
                for split, pair, _ in tried
                for prompt in pair.prompts
                if drawn.setdefault(prompt, split) != split
            ]
            if "held_out" in splits and template in form.templates:
                twice = ["it stands in templates too; held_out needs other shapes"]
            linted.append((template, ", ".join(splits), "; ".join(faults + twice[:1])))
    return linted


def _tried(template: str, form: Form, words: Words, linter: Linter, n: int) -> list[tuple[Candidate, str]]:
    """`n` pairs of `template`, each with its fault in words, empty where there is none."""
    random = Random(template)
    pairs = [draw(template, form.answers, words, random) for _ in range(n)]
    faults = [fault if isinstance(fault, str) else linter.unstable(fault) for fault in linter(pairs)]
    return [(pair, fault and f"{_quoted(pair)} {fault}") for pair, fault in zip(pairs, faults, strict=True)]


def _quoted(pair: Candidate) -> str:
    return f"in the pair {pair.prompts[0]!r} | {pair.prompts[1]!r}"
