"""Training: the loop, its checkpoints, and what it measures."""

from openwork.errors import Interrupted
from openwork.training.loop import TrainConfig, corpus_means, train
from openwork.training.metrics import last_validation_loss, read_metrics

__all__ = ["Interrupted", "TrainConfig", "corpus_means", "last_validation_loss", "read_metrics", "train"]
