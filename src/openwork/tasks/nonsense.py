"""Nonsense twins: tasks that no model can have learnt, to see what pruning finds where there is nothing to find."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from random import Random

from openwork.errors import UserError
from openwork.tasks.base import NONSENSE, Task
from openwork.tasks.templates import BEFORE, SPLITS

SEEN = 256
"""Pairs of each split, none of whose tokens becomes an answer."""
WORD = re.compile(r" ?[a-z]{3,}")
"""What an answer looks like, if the vocabulary has two such tokens."""


def twin(task: Task) -> Task:
    """The nonsense twin of `task`: the same prompts, but two words that have nothing to do with it are the answers.

    Where the vocabulary has two such words, they are in no text of which the pairs are made, whatever the seed.

    Raises:
        UserError: `task` is a twin itself.
    """
    if task.instead:
        raise UserError(f"task {task.name} is a nonsense twin; give the task itself")
    tokenizer, seen = task.tokenizer, {task.tokenizer.end_of_text}
    for split in SPLITS:
        pairs = task.pairs(split, SEEN)
        seen.update(pairs.tokens.flatten().tolist(), pairs.right.flatten().tolist())
    unseen = [i for i in range(tokenizer.d_vocab) if i not in seen]
    text = json.dumps([task.source.content, BEFORE]).lower()
    words = [i for i in unseen if WORD.fullmatch(word := tokenizer.decode([i])) and word.strip() not in text]
    a, b = Random(task.name).sample(words if len(words) > 1 else unseen, 2)
    shown = " and ".join(repr(text) for text in tokenizer.tokens((a, b)))
    return replace(task, name=task.name + NONSENSE, description=f"nonsense: answer {shown}", instead=(a, b))
