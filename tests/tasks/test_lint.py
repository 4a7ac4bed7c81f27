from __future__ import annotations

import pytest

from openwork.corpus import Tokenizer
from openwork.tasks.lint import Encoded, Linter
from openwork.tasks.templates import Candidate


def pair(
    a: str,
    b: str,
    answers: tuple[str, str] = ("')", '")'),
    suffix: str = "\n",
    deciding: tuple[tuple[int, int], tuple[int, int]] = ((5, 7), (5, 7)),
) -> Candidate:
    return Candidate((a, b), answers, (suffix, suffix), ((deciding[0],), (deciding[1],)))


GOOD = pair("print('name", 'print("name')
FAULTS = {
    "the answer '\\')\\\\n' is 2 tokens, \"')\" '\\\\n'": pair("print('name", 'print("name', answers=("')\n", '")')),
    "both answers are": pair("print('name", 'print("name', answers=("')", "')")),
    "follows the prompt": pair("print('name", 'print("name', suffix=")\n"),
    "flow together into": pair("print('na", 'print("na', answers=("me", "mes"), suffix="')\n"),
    "have 3 and 4 tokens": pair("print('name", 'print("name value'),
    "the last tokens 'key' 'name' differ": pair("print('name", 'print("key'),
    "both prompts are the same": pair("print('name", "print('name"),
    "outside the deciding place, in 'open' 'print'": pair("print('name", 'open("name', deciding=((5, 7), (4, 6))),
}


@pytest.fixture(scope="module")
def linter(idioms_tokenizer: Tokenizer) -> Linter:
    return Linter(idioms_tokenizer)


def test_a_good_pair_is_encoded(linter: Linter, idioms_tokenizer: Tokenizer) -> None:
    (found,) = linter([GOOD])
    assert isinstance(found, Encoded)
    assert found.ids == (idioms_tokenizer.encode("print('name"), idioms_tokenizer.encode('print("name'))
    assert idioms_tokenizer.tokens(found.answers) == ["')", '")']
    assert linter.unstable(found) == ""


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named(linter: Linter, fault: str) -> None:
    before, found, after = linter([GOOD, FAULTS[fault], GOOD])
    assert isinstance(before, Encoded)
    assert isinstance(after, Encoded)
    assert isinstance(found, str)
    words = [word for word in fault.replace("'key' 'name'", "").split() if word.isalnum()]
    assert all(word in found for word in words), found


def test_a_prompt_that_changes_with_what_follows_is_found(linter: Linter) -> None:
    (found,) = linter([GOOD])
    assert isinstance(found, Encoded)
    cut_otherwise = Encoded(found.candidate, ([*found.ids[0][:-1], 0], found.ids[1]), found.answers)
    assert "it must not change" in linter.unstable(cut_otherwise)


def test_a_place_decides_in_both_members(idioms_tokenizer: Tokenizer) -> None:
    (found,) = Linter(idioms_tokenizer)([pair("print('name", 'open("name', deciding=((5, 7), (0, 6)))])
    assert isinstance(found, str) and "outside the deciding place" in found


def test_places_are_of_characters_however_many_bytes(idioms_tokenizer: Tokenizer) -> None:
    (found,) = Linter(idioms_tokenizer)([pair("ééé = print('name", 'ééé = print("name', deciding=((11, 13), (11, 13)))])
    assert isinstance(found, Encoded)


def test_an_answer_that_changes_with_what_follows_is_found(idioms_tokenizer: Tokenizer) -> None:
    linter = Linter(idioms_tokenizer)
    (found,) = linter([GOOD])
    assert isinstance(found, Encoded)
    assert "it must not change" in linter.unstable(Encoded(found.candidate, found.ids, (0, found.answers[1])))


def test_each_member_has_its_own_places_behind_tokens_of_unequal_length(idioms_tokenizer: Tokenizer) -> None:
    a, b = "print = print('name", "open = open('name"
    spans = ((0, 5), (8, 13)), ((0, 4), (6, 7))
    (found,) = Linter(idioms_tokenizer)([Candidate((a, b), ("')", '")'), ("\n", "\n"), spans)])
    assert isinstance(found, Encoded)
