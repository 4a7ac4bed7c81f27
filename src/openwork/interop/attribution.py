"""A circuit on one prompt as an attribution graph: the public JSON that circuit-tracer's page and Neuronpedia read.

A node of the graph is a node of the circuit at one position; a link is what the one gives the other there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import Circuit, write_atomically
from openwork.errors import UserError
from openwork.interop.graphs import stream_edges
from openwork.model import FINAL_SITE, Transformer, node_sites, parse_node


@torch.no_grad()
def attribution_graph(circuit: Circuit, model: Transformer, prompt: str, *, slug: str = "circuit") -> dict[str, Any]:
    """The circuit on `prompt` in the JSON form that attribution-graph viewers read (circuit-tracer's schema 1).

    One node for each of the circuit's at each position where it is not at its ablation value, with its activation; the
    prompt's tokens below, the likeliest next tokens above. A link's weight is source activation less ablation value,
    times the weight; in attention it is also multiplied with the pattern. A link of the stream carries the source's
    share.

    Raises:
        UserError: the model has no tokenizer, or the prompt is longer than its context.
    """
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


class _Attribution:
    """Nodes and links of a circuit on one prompt."""

    N_LOGITS = 5

    def __init__(self, circuit: Circuit, model: Transformer, tokens: list[int]) -> None:
        self.circuit, self.model, self.tokens, self.d_head = circuit, model, tokens, model.config.d_head
        sites = list(node_sites(model.config))
        self.logits, self.acts = circuit.run(torch.tensor([tokens]), record=sites)
        places = {name: self._place(name) for name in circuit.nodes}
        self.places = {name: place for name, place in places.items() if place[0] != FINAL_SITE}  # the logits' reads
        self.delta = {name: self._delta(*place) for name, place in self.places.items()}
        self.features = {name: i for i, name in enumerate(self.places)}

    def _place(self, name: str) -> tuple[str, int]:
        return parse_node(name, self.d_head)

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
        node = {"node_id": node_id, "feature": feature, "layer": layer, "ctx_idx": t, "feature_type": kind}
        plain = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "clerp": "", "influence": None}
        reverse = {"reverse_ctx_idx": 0, "jsNodeId": node_id, "activation": None}
        return {**node, **plain, **reverse, **more}

    def _link(self, source: str, target: str, weight: float) -> dict[str, Any]:
        return {"source": source, "target": target, "weight": weight}

    def _weights(self) -> list[dict[str, Any]]:
        """Links along the circuit's edges; out of a value channel, by way of its head's pattern."""
        found, patterns = [], {}
        for source, target, weight in self.circuit.edges:
            site, index = self.places[source]
            delta = self.delta[source]
            if not site.endswith("attn.v"):
                found += [
                    self._link(self._id(source, t), self._id(target, t), weight * float(x)) for t, x in enumerate(delta)
                ]
                continue
            layer = int(site.partition(".")[0])
            if layer not in patterns:
                q, k = (self.acts[f"{layer}.attn.{part}"] for part in "qk")
                patterns[layer] = self.model.attention_pattern(layer, q, k)[0]
            moved = patterns[layer][index // self.d_head] * delta
            found += [
                self._link(self._id(source, key), self._id(target, query), weight * float(moved[query, key]))
                for query in range(len(self.tokens))
                for key in range(query + 1)
            ]
        return found

    def _stream(self) -> list[dict[str, Any]]:
        return [
            self._link(self._id(source, t), self._id(target, t), float(x))
            for source, target in stream_edges(self.circuit, self.d_head)
            if target in self.places
            for t, x in enumerate(self.delta[source])
        ]

    def _embedding(self) -> list[dict[str, Any]]:
        """Links from the tokens to what reads their embeddings."""
        found, d_model = [], self.model.config.d_model
        for name, (site, index) in self.places.items():
            if site.endswith("act_in") and index < d_model:
                weights = self.model.embed.weight[self.tokens, index].tolist()
                found += [
                    self._link(f"E_{token}_{t}", self._id(name, t), w)
                    for t, (token, w) in enumerate(zip(self.tokens, weights, strict=True))
                ]
        return found

    def _unembedding(self) -> list[dict[str, Any]]:
        """Links from what is written at the last position to the likeliest next tokens."""
        last, layer = len(self.tokens) - 1, 2 * self.model.config.n_layers + 1
        read = set(range(self.model.config.d_model))
        if FINAL_SITE in self.circuit.ablation_values:
            read = {index for site, index in map(self._place, self.circuit.nodes) if site == FINAL_SITE}
        return [
            self._link(
                self._id(name, last),
                f"{layer}_{token}_{last}",
                float(self.delta[name][-1] * self.model.unembed.weight[token, index]),
            )
            for name, (site, index) in self.places.items()
            if site.endswith("resid_delta") and index in read
            for token, _ in self._likely()
        ]
