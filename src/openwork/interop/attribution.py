"""A circuit on one prompt as an attribution graph: the public JSON that circuit-tracer's page and Neuronpedia read.

A node of the graph is a node of the circuit at one position; a link is what the one gives the other there, in units of
the target's input. Patterns and the norms' scales are those of the run, held fixed: the links into a target add up to
its input, but for constants: biases, added positions, LayerNorm's mean, and what is ablated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import Circuit
from openwork.errors import UserError
from openwork.files import write_atomically
from openwork.interop.graphs import stream_edges
from openwork.model import FINAL_SITE, Transformer, all_sites, parse_node
from openwork.model.transformer import Norm


@torch.no_grad()
def attribution_graph(circuit: Circuit, model: Transformer, prompt: str, *, slug: str = "circuit") -> dict[str, Any]:
    """The circuit on `prompt` in the JSON form that attribution-graph viewers read (circuit-tracer's schema 1).

    One node for each of the circuit's at each position where it is not at its ablation value, with its activation; the
    prompt's tokens below, the likeliest next tokens above. A link's weight is source activation less ablation value,
    times the weight between the two, through the stream times the reader's norm. Behind a head it is the activation
    itself, times weight and pattern: what is ablated there is what the head moves.

    Raises:
        UserError: the model has no tokenizer, its stream is not a plain sum, or the prompt is longer than its context.
    """
    config = model.config
    closed = config.activation_fraction < 1 and {"resid_mid", "resid_out"} & {*config.sparse_sites}
    if closed or config.residual_activation != "identity":
        raise UserError(
            "an attribution graph needs a residual stream that is a plain sum; this model has "
            f"residual_activation={config.residual_activation} and sparse_sites={','.join(config.sparse_sites)}"
        )
    if model.tokenizer is None:
        raise UserError("this model has no tokenizer; an attribution graph needs one")
    tokens = [model.tokenizer.end_of_text, *model.tokenizer.encode(prompt)]
    return _Attribution(circuit, model, tokens).graph(prompt, slug)


def write_attribution_graph(
    circuit: Circuit, model: Transformer, prompt: str, path: str | Path, *, slug: str = "circuit"
) -> None:
    """Write `attribution_graph` as JSON."""
    graph = attribution_graph(circuit, model, prompt, slug=slug)
    write_atomically(path, json.dumps(graph, indent=1) + "\n")


NONE = torch.zeros(0, dtype=torch.int64)
AT_ENDS = ("embedding", "logit")
"""Kinds of nodes that are no nodes of the circuit."""


def _multiplier(norm: Norm, x: Tensor) -> Tensor:
    """What `norm` multiplies each channel of x (T, D) with; a LayerNorm's mean and bias are left out."""
    square = x.square().mean(-1) + torch.finfo(x.dtype).eps if norm.kind == "rms" else x.var(-1, correction=0) + 1e-5
    return norm.weight * square.rsqrt()[:, None]


class _Attribution:
    """Nodes and links of a circuit on one prompt."""

    N_LOGITS = 5

    def __init__(self, circuit: Circuit, model: Transformer, tokens: list[int]) -> None:
        self.circuit, self.model, self.tokens, self.d_head = circuit, model, tokens, model.config.d_head
        sites = all_sites(model.config)
        self.logits, self.acts = circuit.run(torch.tensor([tokens]), record=sites)
        places = {name: parse_node(name, self.d_head) for name in circuit.nodes}
        self.places = {name: place for name, place in places.items() if place[0] != FINAL_SITE}  # the logits' reads
        self.delta = {name: self._delta(*place) for name, place in self.places.items()}
        reads = {site for site, _ in self.places.values() if site.endswith("act_in")}
        self.scales = {site: self._scale(site) for site in (*reads, FINAL_SITE)}
        self.features = {name: i for i, name in enumerate(self.places)}

    def _delta(self, site: str, index: int) -> Tensor:
        """(T,): the node's activation less its ablation value."""
        return self.acts[site][0, :, index] - self.circuit.ablation_values[site][index]

    def graph(self, prompt: str, slug: str) -> dict[str, Any]:
        assert self.model.tokenizer is not None
        shown = {(name, t) for name, delta in self.delta.items() for t in delta.nonzero()[:, 0].tolist()}
        links = self._weights() + self._stream() + self._embedding() + self._unembedding()
        nodes = [self._feature(name, t) for name in self.places for t in range(len(self.tokens)) if (name, t) in shown]
        nodes += self._embeddings() + self._outputs()
        known = {node["node_id"] for node in nodes}
        return {
            "metadata": {
                "slug": slug,
                "scan": f"openwork-{self.circuit.model_hash[:12]}",
                "transcoder_list": [],
                "prompt_tokens": self.model.tokenizer.tokens(self.tokens),
                "prompt": prompt,
                "node_threshold": None,
                "schema_version": 1,
            },
            "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
            "nodes": nodes,
            "links": [link for link in links if {link["source"], link["target"]} <= known and link["weight"]],
        }

    def _id(self, name: str, t: int) -> str:
        return f"{self._layer(name)}_{self.features[name]}_{t}"

    def _layer(self, name: str) -> int:
        """Rows of the drawing: two for each layer, the attention's and the MLP's."""
        site = self.places[name][0]
        return 2 * int(site.partition(".")[0]) + (".mlp." in site)

    def _feature(self, name: str, t: int) -> dict[str, Any]:
        site, index = self.places[name]
        return self._node(
            self._id(name, t),
            self.features[name],
            str(self._layer(name)),
            t,
            "cross layer transcoder",
            clerp=name,
            activation=float(self.acts[site][0, t, index]),
        )

    def _embeddings(self) -> list[dict[str, Any]]:
        return [self._node(f"E_{token}_{t}", t, "E", t, "embedding") for t, token in enumerate(self.tokens)]

    def _outputs(self) -> list[dict[str, Any]]:
        found, layer, last = [], 2 * self.model.config.n_layers + 1, len(self.tokens) - 1
        for rank, (token, p) in enumerate(self._likely()):
            text = self.model.tokenizer.tokens([token])[0] if self.model.tokenizer else str(token)
            node = self._node(
                f"{layer}_{token}_{last}", token, str(layer), last, "logit", clerp=f'Output "{text}" (p={p:.3f})'
            )
            found.append({**node, "token_prob": p, "is_target_logit": rank == 0})
        return found

    def _likely(self) -> list[tuple[int, float]]:
        p = self.logits[0, -1].softmax(-1).topk(min(self.N_LOGITS, self.logits.shape[-1]))
        return list(zip(p.indices.tolist(), p.values.tolist(), strict=True))

    def _node(self, node_id: str, feature: int, layer: str, t: int, kind: str, **more: Any) -> dict[str, Any]:
        top, _, number = node_id.partition("_")
        js = f"{'L' if kind == 'logit' else top}_{number.partition('_')[0]}-{t if kind in AT_ENDS else 0}"
        node = {"node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": t, "feature_type": kind}
        plain = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "clerp": "", "influence": None}
        reverse = {"reverse_ctx_idx": 0, "jsNodeId": js, "activation": None}
        return {**node, **plain, **reverse, **more}

    def _link(self, source: str, target: str, weight: float) -> dict[str, Any]:
        return {"source": source, "target": target, "weight": weight}

    def _weights(self) -> list[dict[str, Any]]:
        """Links along the circuit's edges; out of a value channel, by way of its head's pattern."""
        found, patterns = [], {}
        for source, target, weight in self.circuit.edges:
            site, index = self.places[source]
            if not site.endswith("attn.v"):
                given = (weight * self.delta[source]).tolist()
                found += [self._link(self._id(source, t), self._id(target, t), x) for t, x in enumerate(given)]
                continue
            layer = int(site.partition(".")[0])
            if layer not in patterns:
                q, k = (self.acts[f"{layer}.attn.{part}"] for part in "qk")
                patterns[layer] = self.model.attention_pattern(layer, q, k)[0]
            moved = patterns[layer][index // self.d_head] * self.acts[site][0, :, index]
            found += [
                self._link(self._id(source, key), self._id(target, query), weight * float(moved[query, key]))
                for query in range(len(self.tokens))
                for key in range(query + 1)
            ]
        return found

    def _scale(self, site: str) -> Tensor:
        """(T, d_model): by what the norm before the read at `site` multiplies the stream; 0 where AbsTopK drops it."""
        layer, _, kind = site.partition(".")
        if site == FINAL_SITE:
            return _multiplier(self.model.final_norm, self.acts[site][0])
        part, stream = ("attn", "resid_in") if kind == "attn.act_in" else ("mlp", "resid_mid")
        x, norm = self.acts[f"{layer}.{stream}"][0], getattr(self.model.blocks[int(layer)], f"{part}_norm")
        return _multiplier(norm, x) * (self.acts[site][0, :, : x.shape[-1]] != 0)

    def _stream(self) -> list[dict[str, Any]]:
        """Links from writers to later readers of the same channel."""
        found = []
        for source, target in stream_edges(self.circuit, self.d_head):
            if target in self.places:
                site, index = self.places[target]
                given = self.delta[source] * self.scales[site][:, index]
                found += [self._link(self._id(source, t), self._id(target, t), x) for t, x in enumerate(given.tolist())]
        return found

    def _embedding(self) -> list[dict[str, Any]]:
        """Links from the tokens to what reads their embeddings."""
        found, d_model = [], self.model.config.d_model
        for name, (site, index) in self.places.items():
            if site.endswith("act_in") and index < d_model:
                given = self.model.embed.weight[self.tokens, index] * self.scales[site][:, index]
                found += [
                    self._link(f"E_{token}_{t}", self._id(name, t), x)
                    for t, (token, x) in enumerate(zip(self.tokens, given.tolist(), strict=True))
                ]
        return found

    def _unembedding(self) -> list[dict[str, Any]]:
        """Links to the likeliest next tokens, from what is written at the last position and from the last token."""
        last, layer, token = len(self.tokens) - 1, 2 * self.model.config.n_layers + 1, self.tokens[-1]
        read = torch.ones(self.model.config.d_model)
        if FINAL_SITE in self.circuit.ablation_values:
            read = torch.zeros_like(read).index_fill(0, self.circuit.kept.get(FINAL_SITE, NONE), 1)
        scale, found = self.scales[FINAL_SITE][-1] * read, []
        for answer, _ in self._likely():
            weight, target = self.model.unembed.weight[answer] * scale, f"{layer}_{answer}_{last}"
            direct = self.model.embed.weight[token] @ weight
            if self.model.config.bigram != "off":
                direct = direct + self.model.bigram[token, answer]
            found.append(self._link(f"E_{token}_{last}", target, float(direct)))
            found += [
                self._link(self._id(name, last), target, float(self.delta[name][-1] * weight[index]))
                for name, (site, index) in self.places.items()
                if site.endswith("resid_delta")
            ]
        return found
