"""Activations under TransformerLens's names and in its shapes: (batch, position, head, channel) in attention.

cache = transformerlens.cache(model, tokens)
cache["blocks.0.attn.hook_q"], cache["blocks.1.attn.hook_pattern"], cache["blocks.1.mlp.hook_post"]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

from openwork.errors import UserError
from openwork.model import ModelConfig, Transformer, all_sites
from openwork.model.sites import HEAD_SITES

NAMES = {
    "resid_in": "hook_resid_pre",
    "attn.act_in": "ln1.hook_normalized",
    "attn.q": "attn.hook_q",
    "attn.k": "attn.hook_k",
    "attn.v": "attn.hook_v",
    "attn.y": "attn.hook_z",
    "attn.resid_delta": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp.act_in": "ln2.hook_normalized",
    "mlp.post_act": "mlp.hook_post",
    "mlp.resid_delta": "hook_mlp_out",
}
"""Sites of a layer: ours and theirs. Ours are after AbsTopK; `act_in` has the norm's scale, and positions behind it."""
PATTERN = "attn.hook_pattern"


def hook_name(site: str, config: ModelConfig) -> str:
    """Their name of our `site`; the last layer's end is ``final_resid`` here and ``hook_resid_post`` there."""
    if site == "final_resid":
        return f"blocks.{config.n_layers - 1}.hook_resid_post"
    layer, _, kind = site.partition(".")
    if kind not in NAMES or site not in all_sites(config):
        raise UserError(f"the model has no site {site!r}; sites look like 0.mlp.post_act")
    return f"blocks.{layer}.{NAMES[kind]}"


def site_of(hook: str, config: ModelConfig) -> str:
    """Our name of their `hook`; a layer's ``hook_resid_post`` is what the next one reads."""
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)", hook)
    kinds = {theirs: ours for ours, theirs in NAMES.items()}
    if match and int(match[1]) < config.n_layers:
        layer, name = int(match[1]), match[2]
        if name == "hook_resid_post":
            return "final_resid" if layer == config.n_layers - 1 else f"{layer + 1}.resid_in"
        if name in kinds:
            return f"{layer}.{kinds[name]}"
    raise UserError(f"there is no site for the hook {hook!r}; hooks look like blocks.0.mlp.hook_post")


def cache(model: Transformer, tokens: Tensor, hooks: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Activations of `tokens` (batch, position) under their names, `hooks` or all; patterns (batch, head, query, key)
    among them."""
    config = model.config
    patterns = {f"blocks.{layer}.{PATTERN}": layer for layer in range(config.n_layers)}
    if hooks is None:
        hooks = [hook_name(site, config) for site in all_sites(config)]
        hooks += [f"blocks.{layer}.hook_resid_post" for layer in range(config.n_layers - 1)]
        hooks += patterns
    layers = {hook: patterns[hook] for hook in hooks if hook in patterns}
    sites = {hook: site_of(hook, config) for hook in hooks if hook not in layers}
    qk = [f"{layer}.attn.{part}" for layer in layers.values() for part in "qk"]
    acts = model.run(tokens, record=[*sites.values(), *qk])[1]
    found = {}
    for hook in hooks:
        if hook in layers:
            layer = layers[hook]
            found[hook] = model.attention_pattern(layer, acts[f"{layer}.attn.q"], acts[f"{layer}.attn.k"])
        else:
            x = acts[sites[hook]]
            in_heads = sites[hook].partition(".")[2] in HEAD_SITES
            found[hook] = x.unflatten(-1, (-1, config.d_head)) if in_heads else x
    return found
