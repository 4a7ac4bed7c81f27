"""After a condition of ``elif`` a block begins: ``:``; after the other value of ``a if b else c`` the line ends.

Both members have a first branch; in A the branch is over and the next begins, in B its last value has two sides.
"""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "begin a block after `elif`, end the line after `a if b else c`"


def _branch(depth: int, line: str = "$name2 = ") -> str:
    """An ``if`` at `depth` whose only line begins with `line`; members have the same number of tokens."""
    pad = "    " * depth
    over = f"\n{pad}elif" if depth else "()\nelif"
    return f"{pad}if $name1:\n{pad}    {line}$name3<{over}| if $name4 else> $name5<?><\n{pad}    {line}$name4\n|>"


FORMS = (
    Form(
        answers=(":", "\n"),
        templates=(
            _branch(0),
            f"def $func1($name1):\n{_branch(1)}",
            f"def $func1($name1):\n{_branch(1, 'return ')}",
            f"def $func1($name1, $name5):\n    $name6 = $num1\n{_branch(1)}",
            f"for $name1 in $name6:\n{_branch(1)}",
            f"def $func1($name6):\n    for $name1 in $name6:\n{_branch(2)}",
            f"class $title1:\n    def $func1(self, $name1):\n{_branch(2, 'self.$name2 = ')}",
        ),
        held_out=(
            f"async def $func1($name1):\n{_branch(1)}",
            f"def $func1($name1):\n{_branch(1, 'yield ')}",
            f"def $func1($name1):\n    global $name2\n{_branch(1)}",
            f"with $name6:\n{_branch(1)}",
            f"def $func1($name1):\n{_branch(1, '$name2 += ')}",
            f"def $func1($name1):\n{_branch(1, '$name2[$name6] = ')}",
        ),
    ),
)
