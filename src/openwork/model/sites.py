"""Names of sites and nodes: the release's, so that users who know its circuits know ours.

A site is a place in the forward pass (``3.mlp.post_act``); a node is one of its channels (``3.mlp.post_act.790``). In
the sites of attention heads a node also names its head: ``3.attn.v.head12.ch0``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from openwork.errors import UserError

if TYPE_CHECKING:
    from openwork.model.transformer import ModelConfig

HEAD_SITES = ("attn.q", "attn.k", "attn.v", "attn.y")
NODE_SITES = (
    "attn.act_in",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.resid_delta",
    "mlp.act_in",
    "mlp.post_act",
    "mlp.resid_delta",
)
"""The sites of a layer whose channels are nodes of circuits (paper, 2.2), in forward order."""
STREAM_SITES = ("resid_mid", "resid_out")
"""Where AbsTopK may also stand: the residual stream after the attention's and after the MLP's write (the next
`resid_in`). Its channels are no nodes."""
FINAL_SITE = "final_resid"
"""The residual stream as the last norm reads it. Its channels are nodes in circuits of the release, never in ours."""
_NODE = re.compile(
    r"(?P<site>\d+\.(?:attn|mlp)\.\w+?|final_resid)"
    r"(?:\.head(?P<head>\d+)\.ch(?P<channel>\d+)|\.(?P<index>\d+))"
)


def all_sites(config: ModelConfig) -> list[str]:
    """Every site of the model, in forward order."""
    attention = ("resid_in", "attn.act_in", "attn.q", "attn.k", "attn.v", "attn.y", "attn.resid_delta")
    mlp = ("resid_mid", "mlp.act_in", "mlp.post_act", "mlp.resid_delta")
    return [f"{layer}.{kind}" for layer in range(config.n_layers) for kind in (*attention, *mlp)] + [FINAL_SITE]


def node_sites(config: ModelConfig) -> dict[str, int]:
    """The sites whose channels are nodes, in forward order, with their widths."""
    return {f"{layer}.{kind}": width(config, kind) for layer in range(config.n_layers) for kind in NODE_SITES}


def ablated_sites(config: ModelConfig) -> dict[str, int]:
    """The sites whose ablation values circuits need, with their widths: those of nodes, and ``attn.y``, which is what
    the weights behind a head multiply."""
    return node_sites(config) | {f"{layer}.attn.y": width(config, "attn.y") for layer in range(config.n_layers)}


def circuit_sites(config: ModelConfig) -> dict[str, int]:
    """The sites whose channels a circuit may keep and ablate, the release's among them, with their widths."""
    return {**node_sites(config), FINAL_SITE: config.d_model}


def width(config: ModelConfig, kind: str) -> int:
    """Channels of a site of this `kind` (its name without the layer)."""
    if kind in HEAD_SITES:
        return config.n_heads * config.d_head
    if kind.endswith("act_in") and config.positions == "concatenated":
        return config.d_model + config.d_position
    return config.d_mlp if kind == "mlp.post_act" else config.d_model


def node_name(site: str, index: int, d_head: int) -> str:
    """The name of channel `index` of `site`."""
    if site.partition(".")[2] in HEAD_SITES:
        return f"{site}.head{index // d_head}.ch{index % d_head}"
    return f"{site}.{index}"


def parse_node(name: str, d_head: int) -> tuple[str, int]:
    """Site and channel of the node `name`; a `UserError` if it is no node's name."""
    match = _NODE.fullmatch(name)
    if match is None:
        raise UserError(f"{name!r} names no node; nodes look like 0.mlp.post_act.790 or 1.attn.v.head3.ch0")
    if match["index"] is not None:
        return match["site"], int(match["index"])
    return match["site"], int(match["head"]) * d_head + int(match["channel"])


def check_sites(names: Iterable[str], config: ModelConfig) -> None:
    """Raise a `UserError` for the first of `names` that is no site of the model, with the nearest one."""
    known = all_sites(config)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"layers go from 0 to {config.n_layers - 1}"
            raise UserError(f"the model has no site {name!r}; {hint}")
