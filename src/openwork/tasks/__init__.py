"""Tasks: binary choices of the next token in Python, in pairs that differ only in what decides (paper, table 1).

Wherever the name of a task is taken, the path of the user's own may stand (`files`); ``~nonsense`` behind either asks
for its twin (`nonsense`).
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from random import Random

from openwork.corpus import Tokenizer
from openwork.errors import UserError
from openwork.tasks import (
    bracket_brace,
    bracket_counting,
    class_init,
    else_elif,
    enumerate_range,
    final_kwarg,
    for_while,
    fstring_brace,
    if_equals,
    if_ternary,
    indent_for,
    lambda_func,
    set_or_string,
    set_or_string_fixedvarname,
    single_double_quote,
    var_if,
    var_swap,
    while_return_true,
    with_as,
    with_open,
)
from openwork.tasks.base import NONSENSE, Pairs, Task
from openwork.tasks.files import ENDINGS, is_file, read_entries, read_forms, written_task
from openwork.tasks.fit import fit
from openwork.tasks.nonsense import twin
from openwork.tasks.templates import SPLITS, Candidate, Form, Split, draw, words_of

__all__ = [
    "SPLITS",
    "Candidate",
    "Form",
    "Pairs",
    "Split",
    "Task",
    "describe",
    "example",
    "forms_of",
    "get",
    "names",
    "twin",
]

_TASKS: dict[str, tuple[str, tuple[Form, ...]]] = {
    module.__name__.rpartition(".")[2]: (module.DESCRIPTION, module.FORMS)
    for module in (
        bracket_brace,
        bracket_counting,
        class_init,
        else_elif,
        enumerate_range,
        final_kwarg,
        for_while,
        fstring_brace,
        if_equals,
        if_ternary,
        indent_for,
        lambda_func,
        set_or_string,
        set_or_string_fixedvarname,
        single_double_quote,
        var_if,
        var_swap,
        while_return_true,
        with_as,
        with_open,
    )
}


def names() -> tuple[str, ...]:
    """The names of all tasks that come with the package, in alphabetical order."""
    return tuple(sorted(_TASKS))


def get(name: str | Path, tokenizer: Tokenizer | None) -> Task:
    """The task `name`, checked against `tokenizer`: a name of `names`, or a file; ``~nonsense`` behind it is its twin.

    Raises:
        UserError: there is no such task, or the tokenizer does not cut its prompts and answers as a binary choice
            needs; the message names a pair and what fails.
    """
    name = str(name)
    base = name.removesuffix(NONSENSE)
    if tokenizer is None:
        raise UserError(f"task {name} needs the model's tokenizer, and this model has none; give a model that has one")
    if base.endswith(".jsonl"):
        task = written_task(_free(base), tokenizer)
    else:
        task = fit(Path(base).stem, *forms_of(base), tokenizer)
    return task if base == name else twin(task)


def describe(name: str) -> str:
    """What the task `name` asks, in one line."""
    return f"pairs of {name}" if name.endswith(".jsonl") else forms_of(name)[0]


def example(name: str) -> Candidate:
    """A pair of the task `name` as text, for show: prompts, answers and what follows; needs no tokenizer."""
    if name.endswith(".jsonl"):
        return read_entries(_free(name))[0].candidate
    form = forms_of(name)[1][0]
    return draw(form.templates[0], form.answers, words_of("train"), Random(name), before=("",))


def forms_of(name: str) -> tuple[str, tuple[Form, ...]]:
    """What a task of templates asks, and its forms, the first that suits a tokenizer to be used.

    Raises:
        UserError: there is no such task, its file defines none, or it is a nonsense twin.
    """
    if name.endswith(NONSENSE):
        raise UserError(f"the answers of {name} are words of a tokenizer; give the MODEL whose tokenizer is meant")
    if is_file(name):
        return read_forms(_free(name))
    if name not in _TASKS:
        near = get_close_matches(name, names(), n=1)
        mend = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names())}"
        raise UserError(f"there is no task {name!r}; {mend}, or give a file ending in {' or '.join(ENDINGS)}")
    return _TASKS[name]


def _free(name: str) -> Path:
    """The path of the user's task `name`, whose own name must not be that of another task."""
    path = Path(name)
    if path.stem in _TASKS:
        raise UserError(f"{name} would be named {path.stem} as a task that comes with the package; rename the file")
    return path
