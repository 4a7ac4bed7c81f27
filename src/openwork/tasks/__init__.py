"""Tasks: binary choices of the next token in Python, in pairs that differ only in what decides (paper, table 1)."""

from __future__ import annotations

from difflib import get_close_matches
from random import Random

from openwork.corpus import Tokenizer
from openwork.errors import UserError
from openwork.tasks import bracket_counting, class_init, set_or_string, single_double_quote, while_return_true
from openwork.tasks.base import Pairs, Task
from openwork.tasks.fit import check, fit
from openwork.tasks.templates import SPLITS, Candidate, Form, Split, draw, words_of

__all__ = ["SPLITS", "Candidate", "Form", "Pairs", "Split", "Task", "check", "describe", "example", "get", "names"]

_TASKS: dict[str, tuple[str, tuple[Form, ...]]] = {
    module.__name__.rpartition(".")[2]: (module.DESCRIPTION, module.FORMS)
    for module in (bracket_counting, class_init, set_or_string, single_double_quote, while_return_true)
}


def names() -> tuple[str, ...]:
    """The names of all tasks, in alphabetical order."""
    return tuple(sorted(_TASKS))


def get(name: str, tokenizer: Tokenizer | None) -> Task:
    """The task `name`, checked against `tokenizer`.

    Raises:
        UserError: there is no such task, or the tokenizer does not cut its prompts and answers as a binary choice
            needs; the message names a pair and what fails.
    """
    description, forms = _find(name)
    if tokenizer is None:
        raise UserError(f"task {name} needs the model's tokenizer, and this model has none; set model.tokenizer")
    return fit(name, description, forms, tokenizer)


def describe(name: str) -> str:
    """What the task `name` asks, in one line."""
    return _find(name)[0]


def example(name: str) -> Candidate:
    """A pair of the task `name` as text, for show: prompts, answers and what follows; needs no tokenizer."""
    form = _find(name)[1][0]
    return draw(form.templates[0], form.answers, words_of("train"), Random(name), before=("",))


def _find(name: str) -> tuple[str, tuple[Form, ...]]:
    if name not in _TASKS:
        near = get_close_matches(name, names(), n=1)
        mend = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names())}"
        raise UserError(f"there is no task {name!r}; {mend}")
    return _TASKS[name]
