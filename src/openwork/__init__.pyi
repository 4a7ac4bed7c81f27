from . import (
    artifacts,
    corpus,
    explain,
    faithfulness,
    frontier,
    interop,
    kernels,
    model,
    models,
    pruning,
    sparsity,
    tasks,
    training,
    viewer,
)
from .artifacts import Card, Circuit, load_card
from .corpus import build_corpus, open_corpus
from .errors import UserError
from .faithfulness import verify
from .model import ModelConfig, Transformer
from .models import load_model, save_model
from .pruning import PruneConfig, load_circuit, prune
from .sparsity import SparsityConfig
from .training import TrainConfig, train
from .viewer import write_page

__all__ = [
    "Card",
    "Circuit",
    "ModelConfig",
    "PruneConfig",
    "SparsityConfig",
    "TrainConfig",
    "Transformer",
    "UserError",
    "artifacts",
    "build_corpus",
    "corpus",
    "explain",
    "faithfulness",
    "frontier",
    "interop",
    "kernels",
    "load_card",
    "load_circuit",
    "load_model",
    "model",
    "models",
    "open_corpus",
    "prune",
    "pruning",
    "save_model",
    "sparsity",
    "tasks",
    "train",
    "training",
    "verify",
    "viewer",
    "write_page",
]
