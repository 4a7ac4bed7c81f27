from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.tasks.samples import quotes, write

from openwork import tasks
from openwork.corpus import Tokenizer
from openwork.errors import UserError
from openwork.tasks.files import read_entries
from openwork.tasks.survey import lint_task


def test_written_pairs_make_a_task(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    name = write(tmp_path / "quotes.jsonl", quotes())
    task = tasks.get(name, idioms_tokenizer)
    assert (task.name, task.description) == ("quotes", "pairs of quotes.jsonl")
    prompts = {split: set(task.pairs(split, 200).prompts) for split in tasks.SPLITS}
    assert [len(prompts[split]) for split in tasks.SPLITS] == [16, 8, 8]
    assert len(set.union(*prompts.values())) == 32
    pairs = task.pairs("validation", 4)
    assert pairs.tokens[0, 0, 1 : pairs.last[0] + 1].tolist() == idioms_tokenizer.encode(pairs.prompts[0][0])
    assert idioms_tokenizer.tokens(pairs.right[0].tolist()) == ["')", '")']
    assert tasks.example(name).prompts == ("get('name", 'get("name')
    assert tasks.get(f"{name}~nonsense", idioms_tokenizer).name == "quotes~nonsense"


def test_splits_that_the_file_names_are_kept(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    members = quotes(24)
    for i, member in enumerate(members):
        member["split"] = ("held_out", "validation", "train")[i // 16]
    task = tasks.get(write(tmp_path / "own.jsonl", members), idioms_tokenizer)
    assert {prompt for pair in task.pairs("held_out", 8).prompts for prompt in pair} == {
        member["prompt"] for member in members[:16]
    }


def test_the_content_decides_the_hash(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    one = tasks.get(write(tmp_path / "one.jsonl", quotes()), idioms_tokenizer).hash
    assert one == tasks.get(write(tmp_path / "one.jsonl", quotes()), idioms_tokenizer).hash
    assert one != tasks.get(write(tmp_path / "one.jsonl", quotes(36)), idioms_tokenizer).hash


def member(prompt: str, right: str, wrong: str, **more: str) -> dict[str, str]:
    return {"prompt": prompt, "right": right, "wrong": wrong, **more}


FAULTY = {
    "several tokens": (member("print('name", "')\n", '")'), member('print("name', '")', "')\n"), r"is 2 tokens"),
    "unequal lengths": (
        member("print('name", "')", '")'),
        member('load the "name', '")', "')"),
        r"the prompts have 3 and 4 tokens",
    ),
    "two places": (member("get(a, 'name", "')", '")'), member('get(b, "name', '")', "')"), r"differ in 2 places"),
    "given away": (member("get(name", ")", ","), member("get(key", ",", ")"), r"give the answer away"),
    "same prompts": (
        member("print('name", "')", '")'),
        member("print('name", '")', "')"),
        r"both prompts are the same",
    ),
    "not swapped": (member("print('name", "')", '")'), member('print("name', '")', ")"), r"must be wrong in the other"),
    "repeated": (
        member("get('name", "')", '")'),
        member('get("name', '")', "')"),
        r"stands in lines 1 and 2 already \(as validation, there as train\)",
    ),
}


@pytest.mark.parametrize("kind", FAULTY)
def test_the_linter_says_pair_by_pair_what_is_wrong(kind: str, tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    a, b, fault = FAULTY[kind]
    members = quotes()
    members[4:6] = [a, b]
    name = write(tmp_path / "own.jsonl", members)
    rows = lint_task(name, idioms_tokenizer)
    assert [row["where"] for row in rows if row["fault"]] == ["lines 5 and 6"]
    assert len(rows) == 32
    with pytest.raises(UserError, match=rf"own.jsonl, lines 5 and 6: .*{fault}.*1 of 32 pairs have faults.*--lint"):
        tasks.get(name, idioms_tokenizer)


def test_every_fault_of_a_pair_is_said(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    name = write(tmp_path / "own.jsonl", [member("get('name", "')\n", "x"), member('load the "key', "x", "')")])
    (row,) = lint_task(name, idioms_tokenizer)
    for words in ("right in one member", "is 2 tokens", "give the answer away", "3 and 4 tokens"):
        assert words in row["fault"]


def test_a_text_of_several_bytes_a_letter_is_measured_right(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    members = [{**m, "prompt": f"größe_öäüößéèê = {m['prompt']}"} for m in quotes()]
    assert not any(row["fault"] for row in lint_task(write(tmp_path / "own.jsonl", members), idioms_tokenizer))


BROKEN = {
    '{"prompt": "a", "right": "b"': "line 1 is no JSON",
    '{"prompt": "a", "right": "b"}': "line 1 has prompt, right; write",
    "[1, 2]": "line 1 has list; write",
    '{"prompt": "a", "right": "b", "wrong": "c", "splitt": "train"}': "line 1 has prompt, right, wrong, splitt",
    '{"prompt": "a", "right": "b", "wrong": 3}': "line 1: wrong is 3; it must be a text",
    '{"prompt": "", "right": "b", "wrong": "c"}': "line 1: prompt is ''; it must be a text",
    '{"prompt": "a", "right": "b", "wrong": "c", "split": "test"}': "no split 'test'; choose one of train",
    '{"prompt": "a", "right": "b", "wrong": "c"}': "has 1 lines; two lines make a pair",
    "": "has 0 lines",
    '{"prompt": "\\ud800", "right": "b", "wrong": "c"}': "line 1: prompt is .* half of a surrogate pair",
    "[" * 100_000: "line 1 is no JSON",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_cannot_be_read_is_refused(text: str, tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=BROKEN[text]):
        tasks.get(str(path), idioms_tokenizer)


def test_what_else_the_user_can_mend(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="cannot read the task file"):
        tasks.get(str(tmp_path / "none.jsonl"), idioms_tokenizer)
    with pytest.raises(UserError, match="rename the file"):
        tasks.get(write(tmp_path / "class_init.jsonl", quotes()), idioms_tokenizer)
    with pytest.raises(UserError, match="has 6 train pairs; each split needs 8"):
        tasks.get(write(tmp_path / "few.jsonl", quotes(32)[:22]), idioms_tokenizer)
    with pytest.raises(UserError, match="has 2 train pairs"):
        tasks.get(write(tmp_path / "few.jsonl", quotes(3)), idioms_tokenizer)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="is not UTF-8"):
        tasks.get(str(tmp_path / "bytes.jsonl"), idioms_tokenizer)


PYTHON = """
from openwork.tasks import Form

DESCRIPTION = "close a string"
FORMS = (
    Form(
        answers=("')", '")'),
        templates=("$name1 = $verb1(<'|\\">$text1<?>\\n",),
        held_out=("assert $verb1(<'|\\">$text1<?>\\n",),
    ),
)
"""


def test_a_python_file_has_templates(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    path = tmp_path / "closing.py"
    path.write_text(PYTHON)
    task = tasks.get(str(path), idioms_tokenizer)
    assert (task.name, task.description) == ("closing", "close a string")
    assert all("assert" in a for a, _ in task.pairs("held_out", 8).prompts)
    assert tasks.describe(str(path)) == "close a string"
    assert [row["fault"] for row in lint_task(str(path), idioms_tokenizer)] == ["", ""]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DESCRIPTION = 1 / 0", "ZeroDivisionError: division by zero; mend it"),
        ("DESCRIPTION = 'x'", "is no task; define DESCRIPTION"),
        ("DESCRIPTION = 'x'\nFORMS = (3,)", "3 in FORMS is no Form"),
        ("import openwork_that_is_not_there", "ModuleNotFoundError"),
        ("DESCRIPTION = (", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        (PYTHON.replace("<?>\\n", "\\n"), r"ValueError: the template .* has 0 places <\?>; it needs one"),
        (PYTHON.replace('\\n",)', '\\n")', 1), r"templates and held_out are tuples of texts"),
        ('\\n")'.join(PYTHON.rsplit('\\n",)', 1)), r"templates and held_out are tuples of texts"),
        (PYTHON.replace("$text1", "$foo1"), r"has a slot \$foo1; slots are \$name, "),
    ],
)
def test_a_python_file_that_is_no_task_is_refused(
    text: str, said: str, tmp_path: Path, idioms_tokenizer: Tokenizer
) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        tasks.get(str(path), idioms_tokenizer)


def test_more_slots_than_words_end_in_a_line(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    path = tmp_path / "own.py"
    path.write_text(PYTHON.replace("$name1 = ", "".join(f"$verb{i}; " for i in range(2, 200))))
    with pytest.raises(UserError, match=r"the template .*\$verb199.* has more slots of a kind than there are words"):
        tasks.get(str(path), idioms_tokenizer)


@pytest.mark.parametrize("answers", [("a",), ("a", "b", "c"), "ab"])
def test_a_form_has_two_answers(answers: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="there are two"):
        tasks.Form(answers=answers, templates=("x{due}",), held_out=("y{due}",))


def test_a_template_with_a_fault_is_named(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    path = tmp_path / "own.py"
    path.write_text(PYTHON.replace('templates=("', 'templates=("<a b|c> = $name1($name2<?>\\n", "'))
    faults = [row["fault"] for row in lint_task(str(path), idioms_tokenizer)]
    assert len(faults) == 3
    assert "tokens; they must be as long" in faults[0]
    assert faults[1:] == ["", ""]


def test_a_template_few_of_whose_pairs_have_no_fault_is_named_with_their_share(
    tmp_path: Path, idioms_tokenizer: Tokenizer
) -> None:
    """A task is made of these few, without a word."""
    path = tmp_path / "own.py"
    path.write_text(PYTHON.replace(r"""<'|\">$text1<?>""", r"""<'$text1|\"$text2> $noun1<?>""", 1))
    assert all("assert" not in a for a, _ in tasks.get(str(path), idioms_tokenizer).pairs("train", 64).prompts)
    first, second = (row["fault"] for row in lint_task(str(path), idioms_tokenizer))
    assert second == ""
    said = re.match(r"(\d+) of 128 pairs have faults, the first in the pair .* tokens; they must be as long", first)
    assert said and 64 < int(said[1]) < 120, first


def test_a_template_that_is_held_out_too_is_named(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    path = tmp_path / "own.py"
    path.write_text(PYTHON.replace("assert ", "$name1 = "))
    faults = [row["fault"] for row in lint_task(str(path), idioms_tokenizer)]
    assert faults == ["", "it stands in templates too; held_out needs other shapes"]


@pytest.mark.parametrize(
    ("slot", "said"),
    [
        ("num", ["is drawn for train and for validation", "is drawn for train and for held_out"]),
        ("noun", ["", "is drawn for validation and for held_out"]),
    ],
)
def test_a_prompt_of_two_splits_is_named(
    slot: str, said: list[str], tmp_path: Path, idioms_tokenizer: Tokenizer
) -> None:
    """Numbers are of all splits, nouns of validation and held-out; the second template is the first in other words."""
    path = tmp_path / "own.py"
    first, second = (rf"""print(<'|\">${slot}{i}<?>""" for i in (1, 2))
    text = PYTHON.replace(r"""$name1 = $verb1(<'|\">$text1<?>""", first)
    path.write_text(text.replace(r"""assert $verb1(<'|\">$text1<?>""", second))
    faults = [row["fault"] for row in lint_task(str(path), idioms_tokenizer)]
    assert "pairs have faults" not in "".join(faults)
    assert all(bool(words) == bool(fault) and words in fault for words, fault in zip(said, faults, strict=True)), faults


def test_lines_are_those_of_an_editor(tmp_path: Path) -> None:
    """A mark in front, empty lines, and a line separator within a text."""
    lines = [json.dumps({**m, "prompt": f"\u2028{m['prompt']}"}, ensure_ascii=False) for m in quotes(2)]
    path = tmp_path / "own.jsonl"
    path.write_text("\ufeff" + "\n\n".join(lines), encoding="utf-8")
    first, second = read_entries(path)
    assert (first.where, second.where) == ("lines 1 and 3", "lines 5 and 7")
    assert first.candidate.prompts[0] == "\u2028get('name"


@pytest.mark.parametrize("splits", [("train", None), (None, "train"), ("train", "validation"), (None, None)])
def test_where_one_line_names_a_split_all_must(splits: tuple[str | None, ...], tmp_path: Path) -> None:
    members = [{**m, "split": "held_out"} for m in quotes(3)]
    for m, split in zip(members[2:4], splits, strict=True):
        m.update({"split": split}) if split else m.pop("split")
    entries = read_entries(Path(write(tmp_path / "own.jsonl", members)))
    assert ["name no split or different ones" in entry.fault for entry in entries] == [False, True, False]


def test_either_prompt_may_not_come_twice(tmp_path: Path) -> None:
    again = [member("get('other", "')", '")'), member('get("name', '")', "')")]
    more = [member("get('third", "')", '")'), again[1]]
    first, *others = read_entries(Path(write(tmp_path / "own.jsonl", [*quotes(1), *again, *more])))
    assert first.fault == "" and all("stands in lines 1 and 2 already" in other.fault for other in others)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DESCRIPTION = 'x'\nFORMS = ()", "is no task; define DESCRIPTION"),
        (PYTHON.replace('held_out=("assert $verb1(<\'|\\">$text1<?>\\n",)', "held_out=()"), "is no Form with answers"),
    ],
)
def test_a_python_file_without_forms_or_held_out_templates_is_refused(
    text: str, said: str, tmp_path: Path, idioms_tokenizer: Tokenizer
) -> None:
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(UserError, match=said):
        tasks.get(str(tmp_path / "own.py"), idioms_tokenizer)


def test_a_python_file_may_not_be_named_as_another_task(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    (tmp_path / "class_init.py").write_text(PYTHON)
    with pytest.raises(UserError, match="rename the file"):
        tasks.get(str(tmp_path / "class_init.py"), idioms_tokenizer)


def test_answers_decide_the_hash(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    one = tasks.get(write(tmp_path / "one.jsonl", quotes()), idioms_tokenizer).hash
    swapped = [{**m, "right": m["wrong"], "wrong": m["right"]} for m in quotes()]
    assert one != tasks.get(write(tmp_path / "one.jsonl", swapped), idioms_tokenizer).hash
