from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from openwork import tasks
from openwork.corpus import Tokenizer
from openwork.errors import UserError
from openwork.tasks.templates import words_of


@pytest.mark.parametrize("name", tasks.names())
def test_a_twin_has_the_same_prompts_and_two_unrelated_answers(name: str, idioms_tokenizer: Tokenizer) -> None:
    task, twin = tasks.get(name, idioms_tokenizer), tasks.get(f"{name}~nonsense", idioms_tokenizer)
    assert twin.name == f"{name}~nonsense"
    assert twin.hash != task.hash
    for split in tasks.SPLITS:
        real, nonsense = task.pairs(split, 64), twin.pairs(split, 64)
        assert nonsense.prompts == real.prompts
        assert nonsense.tokens.equal(real.tokens)
        assert nonsense.last.equal(real.last)
        answers = {tuple(pair) for pair in nonsense.right.tolist()}
        assert len(answers) == 1
        ((a, b),) = answers
        assert a != b
        assert nonsense.wrong.equal(nonsense.right.flip(1))
        assert not {a, b} & {*real.right.flatten().tolist(), *real.tokens.flatten().tolist()}


@pytest.mark.parametrize("name", tasks.names())
def test_the_answers_are_in_no_pair_whatever_the_seed(name: str, idioms_tokenizer: Tokenizer) -> None:
    twin = tasks.get(f"{name}~nonsense", idioms_tokenizer)
    assert twin.instead
    for seed in range(1, 4):
        for split in tasks.SPLITS:
            assert not torch.isin(twin.pairs(split, 128, seed).tokens, torch.tensor(twin.instead)).any()
    answers = [text.strip() for text in idioms_tokenizer.tokens(twin.instead)]
    texts = [text for form in tasks.forms_of(name)[1] for text in (*form.templates, *form.held_out)]
    words = [word for split in tasks.SPLITS for kind in vars(words_of(split)).values() for word in kind]
    assert not any(answer in text.lower() for answer in answers for text in (*texts, *words))


def test_a_twin_is_the_same_each_time_and_has_no_twin(idioms_tokenizer: Tokenizer) -> None:
    task = tasks.get("class_init", idioms_tokenizer)
    twin = tasks.twin(task)
    assert twin.hash == tasks.twin(task).hash == tasks.get("class_init~nonsense", idioms_tokenizer).hash
    assert replace(twin, instead=(1, 2)).hash != twin.hash
    assert all(answer.strip().isalpha() for answer in idioms_tokenizer.tokens(twin.pairs("train", 1).right[0].tolist()))
    for name in ("class_init~nonsense", "quotes.jsonl~nonsense"):
        with pytest.raises(UserError, match=f"the answers of {name} are words of a tokenizer; give the MODEL"):
            tasks.describe(name)
    with pytest.raises(UserError, match="class_init~nonsense is a nonsense twin"):
        tasks.twin(twin)
