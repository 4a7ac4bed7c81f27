"""Add to a set or to a string, as the name was initialised: ``.add`` or ``+=``.

Where the tokenizer cuts ``.add`` in two, the choice is between ``.`` and ``+=``. The empty string is ``str()``, as many
tokens as ``set()``.
"""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "add to a set or to a string, as the name was initialised"
TEMPLATES = (
    "$name1 = <set|str>()\nfor $name2 in $name3:\n    {}",
    "def $func1($name3):\n    $name1 = <set|str>()\n    for $name2 in $name3:\n        {}",
    '$name1 = <{"|">$noun1<"}|">\nfor $name2 in $name3:\n    {}',
    "$name1 = <set|str>($name4)\nfor $name2 in $name3:\n    {}",
    "$name1 = <set|str>()\nfor $name2 in $name3:\n    if $name2 != $num1:\n        {}",
    "$name1 = <set|str>()\nfor $name2 in $name3:\n    $func1($name2)\n    {}",
)
HELD_OUT = (
    "$name1 = <set|str>()\nwhile $name3:\n    $name2 = $name3.pop()\n    {}",
    "$name1: <set|str> = <set|str>()\nfor $name2 in $name3:\n    {}",
    "$name1 = $name4 = <set|str>()\nfor $name2 in $name3:\n    {}",
    "def $func1($name3):\n    $name1 = <set|str>()\n    with $name3 as $name2:\n        {}",
    "$name1 = <set|str>()\nfor $name4 in $name3:\n    for $name2 in $name4:\n        {}",
    "$name1 = <set|str>()\nfor $name4, $name2 in $name3:\n    {}",
)


def forms(name: str = "$name1") -> tuple[Form, ...]:
    """The forms of the task, in which `name` stands for what grows."""
    return _form(name, ".add", ""), _form(name, ".", "add")


def _form(name: str, asked: str, rest: str) -> Form:
    step = f"{name}<?><{rest}($name2)| $name2>\n"
    templates, held_out = fill(TEMPLATES, (step,)), fill(HELD_OUT, (step,))
    named = [tuple(text.replace("$name1", name) for text in texts) for texts in (templates, held_out)]
    return Form(answers=(asked, " +="), templates=named[0], held_out=named[1])


FORMS = forms()
