from __future__ import annotations

import ast
import keyword
import re
from dataclasses import replace
from itertools import islice
from random import Random

import pytest

from openwork import tasks
from openwork.corpus import Tokenizer
from openwork.corpus.idioms import documents
from openwork.corpus.idioms.words import NOUNS, VERBS
from openwork.errors import UserError
from openwork.tasks import SPLITS, Form, Split, Task
from openwork.tasks.fit import fit
from openwork.tasks.sources import Templates
from openwork.tasks.templates import draw, words_of

FORMS = [(name, form) for name in tasks.names() for form in tasks.forms_of(name)[1]]
MOST_DIFFERENCES = {"else_elif": 3, "enumerate_range": 8, "if_ternary": 3, "var_swap": 3}
"""Tokens in which the members of a pair may differ, where two are not enough to have prompts of equal lengths."""
FIXED = {*keyword.kwlist, "print", "self", "__init__", "super", "range", "set", "str"}


@pytest.fixture(scope="module", params=tasks.names())
def task(request: pytest.FixtureRequest, idioms_tokenizer: Tokenizer) -> Task:
    return tasks.get(request.param, idioms_tokenizer)


def test_names_are_those_of_the_paper() -> None:
    assert tasks.names() == (
        "bracket_brace",
        "bracket_counting",
        "class_init",
        "else_elif",
        "enumerate_range",
        "final_kwarg",
        "for_while",
        "fstring_brace",
        "if_equals",
        "if_ternary",
        "indent_for",
        "lambda_func",
        "set_or_string",
        "set_or_string_fixedvarname",
        "single_double_quote",
        "var_if",
        "var_swap",
        "while_return_true",
        "with_as",
        "with_open",
    )


def test_a_corpus_of_idioms_gives_a_tokenizer_for_every_template(task: Task) -> None:
    assert not task.left_out
    assert isinstance(task.source, Templates)
    assert task.source.form.answers == tasks.forms_of(task.name)[1][0].answers


@pytest.mark.parametrize(("name", "form"), FORMS)
@pytest.mark.parametrize("split", SPLITS)
def test_every_prompt_is_the_start_of_code_that_parses(name: str, form: Form, split: Split) -> None:
    random = Random(name)
    for template in form.of(split):
        for _ in range(8):
            pair = draw(template, form.answers, words_of(split), random)
            for member in (0, 1):
                assert "$" not in pair.code(member)
                ast.parse(pair.code(member))


def shape_of(template: str) -> str:
    """A regular expression of the prompts that `template` gives."""
    fixed = re.split(r"\$[a-z]+\d*|<[^|<>]*\|[^|<>]*>", template.partition("<?>")[0])
    return ".*" + ".*".join(map(re.escape, fixed))


@pytest.mark.parametrize("split", SPLITS)
def test_pairs_are_what_they_say(task: Task, split: Split) -> None:
    tokenizer, pairs = task.tokenizer, task.pairs(split, 64)
    assert pairs.tokens.shape[:2] == (64, 2)
    assert pairs.flat.tolist() == [ids for pair in pairs.tokens.tolist() for ids in pair]
    for i, prompts in enumerate(pairs.prompts):
        last = int(pairs.last[i])
        for member, prompt in enumerate(prompts):
            ids = pairs.tokens[i, member].tolist()
            right, wrong = int(pairs.right[i, member]), int(pairs.wrong[i, member])
            assert ids[0] == tokenizer.end_of_text
            assert ids[1 : last + 1] == tokenizer.encode(prompt)
            assert set(ids[last + 1 :]) <= {tokenizer.end_of_text}
            assert tokenizer.encode(prompt + tokenizer.decode([right])) == [*ids[1 : last + 1], right]
            assert right != wrong
        assert pairs.tokens[i, 0, last] == pairs.tokens[i, 1, last], "the last token gives the answer away"
        assert pairs.right[i].tolist() == pairs.wrong[i].flip(0).tolist()
        differences = int((pairs.tokens[i, 0] != pairs.tokens[i, 1]).sum())
        assert 1 <= differences <= MOST_DIFFERENCES.get(task.name, 2), prompts
        assert all(re.fullmatch(shape_of(pairs.templates[i]), prompt, re.DOTALL) for prompt in prompts)


def test_the_seed_decides_and_no_pair_comes_twice(task: Task) -> None:
    for split in SPLITS:
        one, again, other = task.pairs(split, 256, 5), task.pairs(split, 256, 5), task.pairs(split, 256, 6)
        assert one.tokens.equal(again.tokens)
        assert one.prompts == again.prompts
        assert one.prompts != other.prompts
        assert len(set(one.prompts)) == 256


def test_splits_share_no_prompt(task: Task) -> None:
    train, validation, held_out = (
        {prompt for seed in range(2) for pair in task.pairs(split, 150, seed).prompts for prompt in pair}
        for split in SPLITS
    )
    assert not train & validation
    assert not train & held_out
    assert not validation & held_out
    for form in tasks.forms_of(task.name)[1]:
        assert not set(form.templates) & set(form.held_out)


def test_train_and_validation_share_no_word() -> None:
    train, validation = words_of("train"), words_of("validation")
    for kind in vars(train):
        assert not set(getattr(train, kind)) & set(getattr(validation, kind))
        assert len(getattr(validation, kind)) >= 12
    assert words_of("held_out") == validation


@pytest.mark.parametrize("name", tasks.names())
def test_a_template_has_words_that_tell_train_from_validation(name: str) -> None:
    for form in tasks.forms_of(name)[1]:
        for template in form.templates:
            assert re.search(r"\$(name|arg|verb|func|noun|text|title)", template[: template.index("<?>")]), template


def _shape(code: str) -> str:
    """The code with w for words and numbers, one for a row of them, § for strings, and no indentation.

    A string that is open at the end counts as a whole one: so less is told apart.
    """
    code = re.sub(r"""(['"])[^'"\n]*\1|['"][^'"\n]*$""", "§", code)
    code = re.sub(r"[A-Za-z_]\w*|\d+", lambda match: match[0] if match[0] in FIXED else "w", code)
    code = re.sub(r"\[w(, w)+", "[w", code)
    code = re.sub(r"\], w(, w)+", "], w", code)
    code = re.sub(r"\((self, )?w(, w)+", r"(\1w", code)
    return re.sub(r"\n *", "\n", "\n" + code)


@pytest.fixture(scope="module")
def idiom_shapes() -> str:
    return _shape("".join(islice(documents(7), 12000)))


@pytest.mark.parametrize("name", tasks.names())
def test_idioms_have_none_of_the_held_out_shapes(name: str, idiom_shapes: str) -> None:
    form = tasks.forms_of(name)[1][0]
    random = Random(0)

    def found(template: str) -> bool:
        pair = draw(template, form.answers, words_of("held_out"), random, before=("",))
        return any(_shape(pair.prompts[member] + pair.answers[member]) in idiom_shapes for member in (0, 1))

    known = [template for template in form.templates if any(found(template) for _ in range(4))]
    assert known, "the comparison finds nothing at all"
    assert not [template for template in form.held_out if any(found(template) for _ in range(4))]


@pytest.mark.slow
def test_the_hash_names_task_and_tokenizer(idioms_tokenizer: Tokenizer) -> None:
    other = Tokenizer.train(islice(documents(1), 300), 1024)
    hashes = [tasks.get(name, idioms_tokenizer).hash for name in tasks.names()]
    assert hashes == [tasks.get(name, idioms_tokenizer).hash for name in tasks.names()]
    hashes.append(tasks.get("single_double_quote", other).hash)
    assert len(set(hashes)) == len(tasks.names()) + 1


@pytest.mark.parametrize("name", tasks.names())
def test_an_example_needs_no_tokenizer(name: str) -> None:
    pair = tasks.example(name)
    assert pair == tasks.example(name)
    assert pair.answers[0] != pair.answers[1]
    ast.parse(pair.code(0))
    assert tasks.describe(name)


def test_any_tokenizer_of_2048_has_the_answers_as_tokens() -> None:
    random = Random(0)
    prose = [" ".join(random.choices([*NOUNS, *VERBS], k=1000)) for _ in range(60)]
    tokenizer = Tokenizer.train(prose, 2048)
    answers = {answer for name in tasks.names() for answer in tasks.forms_of(name)[1][0].answers if "$" not in answer}
    assert not [answer for answer in answers if len(tokenizer.encode(answer)) > 1]
    assert len(answers) > 20


@pytest.mark.parametrize("name", ["bracket_brace", "with_open"])
def test_a_choice_between_bytes_suits_any_tokenizer(name: str, poor_tokenizer: Tokenizer) -> None:
    assert len(tasks.get(name, poor_tokenizer).pairs("validation", 64)) == 64


def test_a_tokenizer_without_double_brackets_counts_them_in_calls() -> None:
    code = "x = f([1, [2, 3], 4])\ny = [5, 6]\nprint([[a, b], c])\nz = [7, [8], 9]\n"
    tokenizer = Tokenizer.train([code * 40], 300)
    assert len(tokenizer.encode("]]")) == 2
    pairs = tasks.get("bracket_counting", tokenizer).pairs("validation", 32)
    assert tokenizer.tokens(pairs.right[0].tolist()) == ["])", "]"]


@pytest.mark.parametrize("name", sorted({*tasks.names()} - {"bracket_brace", "with_open"}))
def test_an_unfit_tokenizer_is_refused_with_the_reason(name: str, poor_tokenizer: Tokenizer) -> None:
    if name == "while_return_true":  # any tokenizer has its answers, so one that cuts the prompts otherwise
        poor_tokenizer = Tokenizer.train(["while while True: "], 270)
    with pytest.raises(UserError, match=rf"task {name}.*(tokens|single).*use another task"):
        tasks.get(name, poor_tokenizer)


def test_where_no_form_suits_the_first_says_why(idioms_tokenizer: Tokenizer) -> None:
    def of(right: str, wrong: str) -> Form:
        return Form((right, wrong), ("$name1 = <'|\">$text1<?>\n",), ("print(<'|\">$text1<?>)\n",))

    with pytest.raises(UserError, match="the answer 'zebraq' is . tokens"):
        fit("mine", "of two forms", (of("zebraq", "yakqq"), of("walrusq", "vicunaq")), idioms_tokenizer)


def test_what_the_user_can_mend(idioms_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no task 'single_duoble_quote'; did you mean single_double_quote"):
        tasks.get("single_duoble_quote", idioms_tokenizer)
    with pytest.raises(UserError, match=r"choose one of bracket_brace.*or give a file ending in .jsonl or .py"):
        tasks.get("zzz", idioms_tokenizer)
    with pytest.raises(UserError, match="needs the model's tokenizer"):
        tasks.get("class_init", None)
    task = tasks.get("single_double_quote", idioms_tokenizer)
    with pytest.raises(UserError, match="no split 'test'; choose one of train, validation, held_out"):
        task.pairs("test", 4)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="at least 1"):
        task.pairs("train", 0)


def test_templates_and_words_decide_the_hash(idioms_tokenizer: Tokenizer) -> None:
    task = tasks.get("class_init", idioms_tokenizer)
    source = task.source
    assert isinstance(source, Templates)
    fewer = replace(source.form, held_out=source.form.held_out[1:])
    words = replace(source.words["train"], name=source.words["train"].name[1:])
    for other in (replace(source, form=fewer), replace(source, words={**source.words, "train": words})):
        assert replace(task, source=other).hash != task.hash
