"""Our `ModelConfig` as a config of `transformers`. Imports `transformers`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.models.auto.configuration_auto import AutoConfig

from openwork.config import from_dict
from openwork.model import ModelConfig


class OpenworkConfig(PreTrainedConfig):
    """The wiring under ``openwork``, and beside it the sizes under the names that `transformers` uses."""

    model_type = "openwork"

    def __init__(self, openwork: dict[str, Any] | None = None, **kwargs: Any) -> None:
        wiring = from_dict(ModelConfig, openwork or {}, "openwork.")
        self.openwork = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(wiring).items()}
        self.vocab_size = wiring.d_vocab
        self.hidden_size = wiring.d_model
        self.num_hidden_layers = wiring.n_layers
        self.num_attention_heads = wiring.n_heads
        self.max_position_embeddings = wiring.n_ctx
        names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        kwargs = {name: value for name, value in kwargs.items() if name not in names}
        super().__init__(**{**kwargs, "tie_word_embeddings": wiring.tied})

    @property
    def wiring(self) -> ModelConfig:
        """The config of the `Transformer`."""
        return from_dict(ModelConfig, self.openwork, "openwork.")


AutoConfig.register(OpenworkConfig.model_type, OpenworkConfig, exist_ok=True)
