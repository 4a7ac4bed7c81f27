from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from openwork.corpus import Corpus, build_corpus
from openwork.memory import keep_freed_memory

torch.set_num_threads(1)  # little tensors: two threads would only wait for each other
keep_freed_memory()  # as the commands do


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of forty little files with a vocabulary of 280."""
    source = tmp_path_factory.mktemp("source")
    draw = random.Random(0)
    for i in range(40):
        lines = [f"x{draw.randrange(9)} = '{draw.choice(['one', 'two', 'three'])}' + \"{i}\"" for _ in range(20)]
        (source / f"file{i}.py").write_text("\n".join(lines) + "\n")
    return build_corpus(
        str(source), Path(tmp_path_factory.mktemp("corpus")) / "corpus", d_vocab=280, validation_fraction=0.2
    )
