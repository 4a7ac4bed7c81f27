"""A released ``beeg_config.json`` as a `ModelConfig`.

Every key is used, known to change nothing of what is computed, or reported. A key that would change it ends in an
error.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from openwork.errors import UserError
from openwork.files import read_json
from openwork.model import NODE_SITES, ModelConfig
from openwork.model.sites import width

log = logging.getLogger("openwork")

SITES = {
    "attn_in": "attn.act_in",
    "attn_q": "attn.q",
    "attn_k": "attn.k",
    "attn_v": "attn.v",
    "attn_out": "attn.resid_delta",
    "mlp_in": "mlp.act_in",
    "mlp_neuron": "mlp.post_act",
    "mlp_out": "mlp.resid_delta",
    "resid_post_attn": "resid_mid",
    "resid_post_mlp": "resid_out",
}
"""The config's names of AbsTopK's places, and ours."""
OLD_NAMES = {"n_mlp": "d_mlp", "n_embd": "d_model"}
NEUTRAL = {
    *("dropout", "dropout_cat_pos_emb", "grad_checkpointing", "pfrac", "afrac_ste", "afrac_ste_only_non_neurons"),
    *("debug_nans", "debug_exact_topk", "flash", "sparse_matmul_impl", "enable_sparse_kernels", "tokenizer_name"),
    *("sinusoidal_cat_pos_emb", "bigram_table_rank", "expansion_factor", "expansion_factor_mlp"),
}
"""Keys of training, speed and storage: the weights say what is computed (sinusoids and tables are among them)."""
DECISIVE = {
    *("use_tied_aux_matrix", "unembed_rank", "mup", "mup_width_multiplier", "scale_invariance"),
    *("rtopk", "afrac_approx", "enable_fp8_linear"),
}
"""Keys of variants that compute something else; they must be off."""
MOST = 1 << 24
"""No size in a config is larger: what is, is damage."""


@dataclass(frozen=True)
class Release:
    """What a released config says: our config, and what its weights should be like."""

    model: ModelConfig
    layer_norm_bias: bool
    """Whether the norms' biases are among the weights."""
    linear_bias: bool
    """Whether the linear maps' biases are."""


def read_release(path: Path) -> Release:
    """The config in the file `path`, a ``beeg_config.json``.

    Raises:
        UserError: damaged, an impossible value, or a key that says that something else is computed.
    """
    content = read_json(path, "released config")
    for old, new in OLD_NAMES.items():
        if old in content:
            value = content.pop(old)
            if content.setdefault(new, value) is None:
                content[new] = value
    return _Reader(content, path).release()


class _Reader:
    """Takes keys out of a config one by one; what is left over is unknown."""

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        self.content, self.path = dict(content), path

    def release(self) -> Release:
        d_model, n_heads = self.size("d_model", 768), self.size("n_head", 12)
        d_position, rms = self.size("d_pos_emb", 0), self.flag("rms_norm", False)
        linear_bias, norm_bias = self.flag("bias", True), self.flag("ln_bias", True)
        fraction, sites = self.sparsity()
        config = ModelConfig(
            n_layers=self.size("n_layer", 12),
            d_model=d_model,
            d_head=self.size("d_head", 0) or d_model // max(1, n_heads),
            n_heads=n_heads,
            d_mlp=self.size("d_mlp", 0),
            n_ctx=self.size("block_size", 1024),
            d_vocab=self.size("vocab_size", 50304),
            activation_fraction=fraction,
            sparse_sites=sites,
            sink=self.flag("sink", False),
            bigram=self.bigram(),
            positions="concatenated" if d_position else "learned",
            d_position=d_position or ModelConfig.d_position,
            norm="rms" if rms else "layer",
            activation=self.choice("activation_type", "gelu", ("gelu", "relu")),
            residual_activation=self.choice("residual_activation_type", "identity", ("identity", "relu")),
            tied=self.flag("tied_unembed", True),
            bias=True,  # ones that the release lacks are zeros, which computes the same
        )
        self.report()
        for site in config.sparse_sites if fraction < 1 else ():
            if int(fraction * width(config, site)) < 1:
                raise self.error("afrac", fraction, f"it keeps none of the {width(config, site)} channels of {site}")
        return Release(config, norm_bias and not rms, linear_bias)

    def sparsity(self) -> tuple[float, tuple[str, ...]]:
        """Fraction and sites of AbsTopK; none if the config has no ``afrac``."""
        fraction = self.content.pop("afrac", None)
        named = str(self.content.pop("afrac_loctypes", "attn_in,attn_out,mlp_in,mlp_out")).split(",")
        if fraction is None:
            return 1.0, NODE_SITES
        unknown = [name for name in named if name not in SITES]
        if unknown:
            raise self.error("afrac_loctypes", unknown[0], f"known are {', '.join(SITES)}")
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction <= 1:
            raise self.error("afrac", fraction, "it must lie in (0, 1]")
        return float(fraction), tuple(SITES[name] for name in named)

    def bigram(self) -> Literal["off", "counted", "learned"]:
        learned = self.flag("learnable_bigram_table", False)
        if not self.flag("enable_bigram_table", False):
            return "off"
        return "learned" if learned else "counted"

    def size(self, key: str, default: int) -> int:
        value = self.content.pop(key, None)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MOST:
            raise self.error(key, value, f"it must be a whole number from 1 to {MOST:,}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.content.pop(key, None)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, value, "it must be true or false")
        return default if value is None else value

    def choice(self, key: str, default: Any, known: tuple[str, ...]) -> Any:
        value = self.content.pop(key, default)
        if value not in known:
            raise self.error(key, value, f"known are {', '.join(known)}")
        return value

    def report(self) -> None:
        """Refuse keys that change what is computed; tell of those that nobody here knows."""
        for key, value in self.content.items():
            if key in DECISIVE and value:
                raise self.error(key, value, "models with it compute something else, which openwork cannot run")
        unknown = [key for key in self.content if key not in NEUTRAL and key not in DECISIVE]
        if unknown:
            log.warning("%s has keys unknown here, not used: %s", self.path, ", ".join(sorted(unknown)))

    def error(self, key: str, value: Any, mend: str) -> UserError:
        return UserError(f"{self.path} has {key} {str(value)[:60]!r}; {mend}")
