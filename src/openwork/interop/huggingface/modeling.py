"""Our `Transformer` as a causal language model of `transformers`. Imports `transformers`.

The model is ours, unchanged. What generation asks beyond it, a cache of keys and values and padded prompts, enters
through the one door: edits hold q, k and v as they pass, and put in ``attn.y`` the attention over all keys so far.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from openwork.artifacts import Edit
from openwork.interop.huggingface.config import OpenworkConfig
from openwork.model import Transformer
from openwork.model.transformer import Block


class OpenworkForCausalLM(PreTrainedModel, GenerationMixin):
    """An Openwork model for `transformers`; ``.model`` is the `Transformer`, with its ``run(record, edit)``."""

    config_class = OpenworkConfig
    base_model_prefix = "model"
    _tied_weights_keys: ClassVar[dict[str, str]] = {  # pyright: ignore[reportIncompatibleVariableOverride]
        "model.unembed.weight": "model.embed.weight"
    }

    def __init__(self, config: OpenworkConfig) -> None:
        super().__init__(config)
        self.model = Transformer(config.wiring)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The `Transformer` has initialised itself."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.model.unembed

    def forward(
        self,
        input_ids: Tensor,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Cache | None = None,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) of tokens (B, T) that follow those in `cache`; with `labels` (B, T), the loss too.

        `past_key_values` is the older name of `cache`. `logits_to_keep`: so many last positions, or these; 0: all.
        """
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache()
        past = cache.get_seq_length() if cache is not None else 0
        positions, allowed = _positions(input_ids, attention_mask, past)
        edits: dict[str, Edit] = {}
        if cache is not None or allowed is not None:
            for layer in range(self.model.config.n_layers):
                edits |= _Attention(self.model, layer, cache, allowed).edits()
        logits = self.model.run(input_ids, edit=edits, positions=positions if position_ids is None else position_ids)[0]
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(loss=loss, logits=logits[:, kept], cache=cache)  # pyright: ignore


def _positions(tokens: Tensor, mask: Tensor | None, past: int) -> tuple[Tensor, Tensor | None]:
    """Where the tokens stand, and which keys each may attend to (B, 1, T, keys); None if plain attention does.

    `mask` (B, past + T) is 0 at padding, which takes no position; a padded query attends to itself alone, for no NaN.
    """
    length, device = tokens.shape[1], tokens.device
    padded = mask is not None and mask.dim() == 2 and not bool(mask.all())
    if not padded and not past:
        return torch.arange(length, device=device), None
    query, key = torch.arange(past, past + length, device=device)[:, None], torch.arange(past + length, device=device)
    allowed = (key <= query).expand(len(tokens), 1, -1, -1)
    if not padded:
        return query[:, 0], allowed
    assert mask is not None
    allowed = (allowed & mask[:, None, None, :].bool()) | (key == query)
    return (mask.cumsum(-1) - 1).clamp(min=0)[:, -length:], allowed


class _Attention:
    """The attention of one layer, over the keys and values of the cache and its own."""

    def __init__(self, model: Transformer, layer: int, cache: Cache | None, allowed: Tensor | None) -> None:
        self.d_head, self.sink = model.config.d_head, cast(Block, model.blocks[layer]).attn.sink
        self.layer, self.cache, self.allowed = layer, cache, allowed
        self.held: dict[str, Tensor] = {}

    def edits(self) -> dict[str, Edit]:
        return {
            f"{self.layer}.attn.q": lambda x: self._hold("q", x),
            f"{self.layer}.attn.k": lambda x: self._hold("k", x),
            f"{self.layer}.attn.v": lambda x: self._hold("v", x),
            f"{self.layer}.attn.y": self._attend,
        }

    def _hold(self, name: str, x: Tensor) -> Tensor:
        self.held[name] = x.unflatten(-1, (-1, self.d_head)).transpose(1, 2)
        return x

    def _attend(self, y: Tensor) -> Tensor:
        q, k, v = (self.held[name] for name in "qkv")
        if self.cache is not None:
            k, v = self.cache.update(k, v, self.layer)
        if self.allowed is None:
            return y
        scores = (q @ k.transpose(-1, -2) * self.d_head**-0.5).masked_fill(~self.allowed, -torch.inf)
        if self.sink is not None:
            scores = torch.cat([scores, self.sink[:, None, None].expand(*scores.shape[:-1], 1)], dim=-1)
        pattern = scores.softmax(-1)[..., : k.shape[-2]]
        return (pattern @ v).transpose(1, 2).flatten(2)


AutoModelForCausalLM.register(OpenworkConfig, OpenworkForCausalLM, exist_ok=True)
