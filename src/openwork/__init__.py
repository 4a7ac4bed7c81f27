"""Openwork: train language models whose wiring people can read, find their circuits, and test them.

model = openwork.load_model(path)
task = openwork.tasks.get("single_double_quote", model.tokenizer)
circuit = openwork.prune(model, task)
card = openwork.verify(circuit, task)
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    # Before PyTorch loads OpenMP: threads that wait for each other soon give way to other processes (docs/speed.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from openwork import interop, models, tasks
from openwork.artifacts import Card, Circuit, load_card
from openwork.corpus import build_corpus, open_corpus
from openwork.errors import UserError
from openwork.faithfulness import verify
from openwork.model import ModelConfig, Transformer
from openwork.models import load_model, save_model
from openwork.pruning import PruneConfig, load_circuit, prune
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig, train
from openwork.viewer import write_page

__all__ = [
    "Card",
    "Circuit",
    "ModelConfig",
    "PruneConfig",
    "SparsityConfig",
    "TrainConfig",
    "Transformer",
    "UserError",
    "build_corpus",
    "interop",
    "load_card",
    "load_circuit",
    "load_model",
    "models",
    "open_corpus",
    "prune",
    "save_model",
    "tasks",
    "train",
    "verify",
    "write_page",
]

interop.huggingface.register_when_imported()
