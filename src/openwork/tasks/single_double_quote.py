"""Close a string argument with the mark that opened it: ``')`` or ``")``. The prompt has no other quotation mark."""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "close a string argument with the mark that opened it"
OPEN = "(<'|\">"
FORMS = (
    Form(
        answers=("')", '")'),
        templates=(
            f"print{OPEN}$text<?>\n",
            f"$func1{OPEN}$text<?>\n",
            f"$name1 = $func1{OPEN}$text<?>\n",
            f"$name1.$verb1{OPEN}$text<?>\n",
            f"$name1 = $name2.$verb1{OPEN}$text<?>\n",
            f"def $func1($name1):\n    $verb1{OPEN}$text<?>\n",
            f"for $name1 in $name2:\n    $name1.$verb1{OPEN}$text<?>\n",
            f"if $name1:\n    print{OPEN}$text<?>\n",
        ),
        held_out=(
            f"def $func1($name1):\n    yield $verb1{OPEN}$text<?>\n",
            f"$name1 = $name2 or $func1{OPEN}$text<?>\n",
            f"$name1 = [$func1{OPEN}$text<?> for $name2 in $name3]\n",
            f"$func1(\n    $name1,\n    $func2{OPEN}$text<?>\n)\n",
            f"$func1($name1, $func2{OPEN}$text<?> + $name2)\n",
            f"assert $name1 == $func1{OPEN}$text<?>\n",
            f"$name1[$name2] = $func1{OPEN}$text<?>\n",
            f"$name1 = lambda: $func1{OPEN}$text<?>\n",
            f"@$name1.$verb1{OPEN}$text<?>\ndef $func1($name2):\n    return $name2\n",
            f"def $func1($name1):\n    return $name1 and $verb1{OPEN}$text<?> or $name2\n",
        ),
    ),
)
