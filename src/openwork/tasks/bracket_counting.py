"""Close as many lists as are open: ``]`` or ``]]``.

One list or two are open because one bracket or two opened, or because an inner list was closed before or is still
open. Where the tokenizer has no ``]]`` the list stands in a call, and the choice is between ``])`` (only the list is
open) and ``]`` (an inner list is open too).
"""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "close as many lists as are open"
INNER = (
    "<[|[[>$items1<?>",
    "[[$items1<],|,> $items2<?>",
    "[$items1, [$items2<],|,> $items3<?>",
)
"""Member A has one list open in the end, member B two."""
AROUND = (
    "$name1 = {}\n",
    "def $func1($name2):\n    $name1 = {}\n",
    "for $name2 in $name3:\n    $name1 = {}\n",
    "if $name2:\n    $name1 = {}\n",
)
AROUND_HELD_OUT = (
    "$name1 += {}\n",
    "def $func1($name2):\n    yield {}\n",
    "$name1 = $name2 + {}\n",
    "assert $name1 == {}\n",
    "$name1, $name2 = $name3, {}\n",
    "$name1.$name2 = {}\n",
    "$name1 = lambda: {}\n",
    "with $name1:\n    $name2 = {}\n",
)
INNER_CALL = (
    "[[$items1<],|,> $items2<?><|])>",
    "[$items1, [$items2<],|,> $items3<?><|])>",
)
CALL = (
    "$func1({}\n",
    "$name1.$verb1({}\n",
    "$name1 = $func1({}\n",
    "def $func1($name1):\n    $verb2({}\n",
)
CALL_HELD_OUT = (
    "$name1 += $func1({}\n",
    "def $func1($name2):\n    yield $verb2({}\n",
    "$name1 = $name2 + $func1({}\n",
    "assert $name1 == $func1({}\n",
    "$name1 = lambda: $func1({}\n",
    "with $name1:\n    $func1({}\n",
)


FORMS = (
    Form(answers=("]", "]]"), templates=fill(AROUND, INNER), held_out=fill(AROUND_HELD_OUT, INNER)),
    Form(answers=("])", "]"), templates=fill(CALL, INNER_CALL), held_out=fill(CALL_HELD_OUT, INNER_CALL)),
)
