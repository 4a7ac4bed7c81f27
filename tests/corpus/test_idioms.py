from __future__ import annotations

import ast
import builtins
import re
from collections import Counter
from itertools import islice

import pytest

from openwork.corpus.idioms import documents
from openwork.corpus.idioms.words import READ_FROM, WRITE_TO

N = 800


@pytest.fixture(scope="module")
def programs() -> list[str]:
    return list(islice(documents(0), N))


def test_every_program_parses_and_has_the_stated_size(programs: list[str]) -> None:
    for program in programs:
        ast.parse(program)
        assert 5 <= program.count("\n") <= 60
        assert program.endswith("\n")
        assert not program.endswith("\n\n")


def test_a_method_is_never_named_like_a_keyword(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openwork.corpus.idioms.blocks.VERBS", ("import",))
    called = [program for program in islice(documents(0), 200) if ".import_(" in program]
    assert called
    for program in called:
        ast.parse(program)


def test_every_name_is_defined_in_its_program(programs: list[str]) -> None:
    for program in programs:
        tree = ast.parse(program)
        known = {*dir(builtins), "__name__"}
        for node in ast.walk(tree):
            match node:
                case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                    known.add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    known.add(name)
                case ast.alias(name=name):
                    known.add(name)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert used <= known, (used - known, program)


def test_the_seed_decides(programs: list[str]) -> None:
    assert list(islice(documents(0), 50)) == programs[:50]
    assert list(islice(documents(1), 50)) != programs[:50]
    assert len(set(programs)) == N


def test_only_the_opening_mark_tells_the_closing_one(programs: list[str]) -> None:
    text = "".join(programs)
    single, double = len(re.findall(r"\('[^'\"\n]*'\)", text)), len(re.findall(r'\("[^\'"\n]*"\)', text))
    assert abs(single / (single + double) - 0.5) < 0.04, "one mark would be the better guess"
    assert not re.search(r"\('[^'\"\n]*\"|\(\"[^'\"\n]*'", text), "closed with the other mark"
    both = sum("('" in program and '("' in program for program in programs)
    assert both > N / 4, "a program that keeps to one mark gives the answer away"


def test_what_the_tasks_ask_for_is_there(programs: list[str]) -> None:
    text = "".join(programs)
    patterns = (
        r"= \[\[.*\]\]\n",
        r"= \[\[[^\[\]]*\], [^\[\]]*\]\n",
        r"= \[[^\[\]]+, \[[^\[\]]*\]\]\n",
        r" = set\(\)\n",
        r" = str\(\)\n",
        r"\.add\(",
        r" \+= ",
        r"while True:\n",
        r"return True\n",
        r"self\.(\w+) = \1\n",
        r"with open\(",
        r"\.get\(",
        r"lambda",
        r"enumerate\(",
        r"elif ",
        r"except ",
        r"@dataclass",
        r"def \w+\([^)\n]*=\w+, \w+=",
        r"    current = (set|str)\(\)\n",
        r"with \w+\([^'\"\n]*\) as ",
        r"return \w+\(.*\)\n",
        r"    yield \w+\(",
        r"= \{\w+: .*, \w+: ",
        r"= \[\w+, ",
        r"while [a-z]\w*:\n",
        r"for \w+ in \w+:\n",
        r"elif \w+:\n",
        r" if \w+ else \w+\n",
        r" f['\"]",
        r" b['\"]",
        r" r['\"]",
        r"(\w+), (\w+) = \2, \1\n",
        r"\n {12}\w",
        r"lambda \w+: ",
        r" not \w+\(",
        r"if \w+\[\w+\] == ",
        r"\n *\w+\[\w+\] = ",
        r"for \w+, \w+ in enumerate\(",
        r"for \w+ in range\(",
        r"\n *(\w+) = .*\n *if \1\b",
    )
    rare = [pattern for pattern in patterns if len(re.findall(pattern, text)) < N / 50]
    assert not rare


def test_a_files_name_tells_whether_it_is_read_or_written(programs: list[str]) -> None:
    modes = {"r": set(), "w": set()}
    for name, mode in re.findall(r"open\(['\"](?:\w+/)?(\w+)\.\w+['\"], ['\"](\w)['\"]\)", "".join(programs)):
        modes[mode].add(name)
    assert {*READ_FROM} <= modes["r"] - modes["w"]
    assert {*WRITE_TO} <= modes["w"] - modes["r"]
    assert modes["r"] & modes["w"], "other files are either"


def test_after_an_argument_with_a_default_all_have_one(programs: list[str]) -> None:
    ends = re.findall(r"def \w+\(.*?(\w+(?:=[^,)]*)?), (\w+(?:=[^,)]*\)?)?)\):", "".join(programs))
    assert all("=" in last for before, last in ends if "=" in before)
    first = [("=" in last) for before, last in ends if "=" not in before]
    assert sum(first) < len(first) / 5, "without a default before, the arguments mostly end"


def test_only_f_strings_hold_values(programs: list[str]) -> None:
    texts = re.findall(r"\b([fbr])(['\"])([^'\"\n]*)\2", "".join(programs))
    assert all(("{" in text) == (letter == "f") for letter, _, text in texts)
    assert len({letter for letter, _, _ in texts}) == 3


def test_what_is_tested_was_mostly_just_assigned(programs: list[str]) -> None:
    pairs = re.findall(r"\n *(\w+) = .*\n *if (?:not )?(\w+)", "".join(programs))
    assert sum(one == two for one, two in pairs) > len(pairs) / 3


def test_functions_and_variables_share_their_names(programs: list[str]) -> None:
    text = "".join(programs)
    assert len({*re.findall(r"lambda (\w+):", text)} & {*re.findall(r"def (\w+)\(", text)}) > 20


def test_a_name_does_not_tell_a_set_from_a_string(programs: list[str]) -> None:
    text = "".join(programs)
    sets, strings = (Counter(re.findall(rf"(\w+) = {start}\(\)\n", text)) for start in ("set", "str"))
    both = sum((sets & strings).values())
    assert both > 20, (len(sets), len(strings))


def test_a_repeated_attribute_is_the_argument_of_its_name(programs: list[str]) -> None:
    in_order = out_of_order = 0
    for program in programs:
        for head, body in re.findall(r"def __init__\(self, ([a-z_, ]+)\):\n((?:        self\.\w+ = \w+\n)+)", program):
            arguments = [name for name in head.split(", ")]
            given = [name for name in re.findall(r"= (\w+)\n", body) if name in arguments]
            in_order += given == arguments[: len(given)]
            out_of_order += given != arguments[: len(given)]
    assert out_of_order > in_order / 20, "position alone would tell the argument"
    assert in_order > out_of_order
