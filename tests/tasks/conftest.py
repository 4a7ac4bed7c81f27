from __future__ import annotations

from itertools import islice

import pytest

from openwork.corpus import Tokenizer
from openwork.corpus.idioms import documents


@pytest.fixture(scope="session")
def idioms_tokenizer() -> Tokenizer:
    """A tokenizer of 2048 tokens learnt from a few hundred kilobytes of idioms."""
    return Tokenizer.train(islice(documents(0), 600), 2048)


@pytest.fixture(scope="session")
def poor_tokenizer() -> Tokenizer:
    """A tokenizer of single bytes and three merges."""
    return Tokenizer.train(["x = 1\n" * 3], 260)
