"""Open a file to read or to write, as its name says: ``r`` for what comes in, ``w`` for what goes out."""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "open a file to read or to write, as its name says"
NAMES = ("<input|output>", "<source|target>", "<config|report>", "<data|result>")
"""What is read, and what is written."""
FILES = tuple(f"{name}.{ending}" for name in NAMES for ending in ("txt", "json", "csv"))
OPEN = "open($mark1{}$mark1, $mark1<?>$mark1)"
FORMS = (
    Form(
        answers=("r", "w"),
        templates=fill(
            (
                f"with {OPEN.replace('{}', '$noun1/{}')} as $name1:\n    $func1($name1)\n",
                f"def $func1($name1):\n    with {OPEN} as $name2:\n        $func2($name2)\n",
                f"for $name1 in $name2:\n    with {OPEN} as $name3:\n        $func2($name3)\n",
                f"if $name1:\n    with {OPEN} as $name2:\n        $func2($name2)\n",
                f"$name1 = $num1\nwith {OPEN} as $name2:\n    $func2($name2)\n",
            ),
            FILES,
        ),
        held_out=fill(
            (
                f"with $func1($name1), {OPEN} as $name2:\n    $func2($name2)\n",
                f"def $func1($name1):\n    yield {OPEN}\n",
                f"$name1.$name2 = {OPEN.replace('{}', '$noun1/$noun2/{}')}\n",
                f"$name1 = [{OPEN} for $name2 in $name3]\n",
                f"async def $func1($name1):\n    with {OPEN} as $name2:\n        $func2($name2)\n",
                f"$name1 = lambda: {OPEN}\n",
            ),
            FILES,
        ),
    ),
)
