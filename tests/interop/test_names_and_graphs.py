"""A circuit in other tools' forms, and activations under other libraries' names."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from openwork.artifacts import Circuit, Edge
from openwork.errors import UserError
from openwork.interop import attribution, graphs, transformerlens
from openwork.model import all_sites, node_sites, parse_node
from tests.pruning.planted import EDGES, NODES, PlantedTask, planted_model

networkx = pytest.importorskip("networkx")
LATER = "0.mlp.act_in.2"


class Letters:
    """One character a token: enough of a tokenizer for a drawing."""

    end_of_text = 0
    hash = ""

    def encode(self, text):
        return [ord(letter) - ord("a") + 1 for letter in text]

    def tokens(self, ids):
        return ["<end>" if i == 0 else chr(ord("a") + i - 1) for i in ids]


@pytest.fixture
def planted() -> Circuit:
    return make_planted()


def make_planted() -> Circuit:
    """The planted circuit, and one node of the MLP that reads what the head wrote."""
    model = planted_model().requires_grad_(False)
    model.tokenizer = Letters()
    names = sorted({*NODES, LATER}, key=lambda name: all_sites(model.config).index(parse_node(name, 4)[0]))
    kept: dict[str, list[int]] = {}
    for name in names:
        site, index = parse_node(name, 4)
        kept.setdefault(site, []).append(index)
    weight = {"k": 1.0, "v": 1.0, "resid_delta": 3.0}
    edges = [Edge(s, t, weight[t.split(".")[2]]) for s, t in sorted(EDGES)]
    return Circuit(
        model_hash=model.hash,
        task="planted",
        task_hash="planted",
        ablation="mean",
        nodes=tuple(names),
        edges=tuple(edges),
        kept={site: torch.tensor(index) for site, index in kept.items()},
        ablation_values=model.means,
        scale=1.0,
        shift=0.0,
        seed=0,
        target=0.15,
        losses={"unpruned": 0.1, "circuit": 0.1, "circuit_uncalibrated": 0.1},
        n_pairs=8,
        n_possible_nodes=sum(node_sites(model.config).values()),
        n_possible_edges=0,
        model=model,
    )


def test_networkx_and_graphml_have_the_circuit_s_nodes_edges_and_streams(planted, tmp_path):
    graph = graphs.to_networkx(planted, 4)
    assert set(graph) == {*NODES, LATER}
    weights = {(s, t): d["weight"] for s, t, d in graph.edges(data=True) if d["kind"] == "weight"}
    assert weights == {(edge.source, edge.target): edge.weight for edge in planted.edges}
    streams = [(s, t) for s, t, d in graph.edges(data=True) if d["kind"] == "stream"]
    assert streams == [("0.attn.resid_delta.2", LATER)]
    assert graph.nodes["0.attn.v.head0.ch0"] == {"layer": 0, "site": "0.attn.v", "kind": "attn.v", "index": 0}
    graphs.write_graphml(planted, tmp_path / "circuit.graphml", 4)
    again = networkx.read_graphml(tmp_path / "circuit.graphml", force_multigraph=True)
    assert set(again) == set(graph) and again.number_of_edges() == graph.number_of_edges()


def test_csv_has_every_edge_and_every_node(planted, tmp_path):
    graphs.write_csv(planted, tmp_path / "circuit.csv", 4)
    with (tmp_path / "circuit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(r["source"], r["target"], float(r["weight"])) for r in rows if r["kind"] == "weight"} == set(planted.edges)
    assert {name for row in rows for name in (row["source"], row["target"])} - {""} == {*NODES, LATER}


def test_the_attribution_graph_gives_each_target_the_sum_of_its_links(planted):
    """In the planted circuit what the head writes is a sum over links, and so is what each value channel gets."""
    model = planted.model
    graph = attribution.attribution_graph(planted, model, "aefgh")
    assert graph["metadata"]["schema_version"] == 1 and graph["metadata"]["prompt_tokens"][:2] == ["<end>", "a"]
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) and {"E_1_1", "E_0_0"} <= set(nodes)
    assert all({link["source"], link["target"]} <= set(nodes) for link in graph["links"])
    tokens = torch.tensor([[0, 1, 5, 6, 7, 8]])
    acts = planted.run(tokens, record=["0.attn.resid_delta", "0.attn.v"])[1]
    written = next(n for n in nodes.values() if n["clerp"] == "0.attn.resid_delta.2" and n["ctx_idx"] == 5)
    arriving = sum(link["weight"] for link in graph["links"] if link["target"] == written["node_id"])
    mean_v = planted.ablation_values["0.attn.v"]
    base = (model.blocks[0].attn.out.weight[2] @ mean_v + model.blocks[0].attn.out.bias[2]).item()
    assert arriving == pytest.approx(float(acts["0.attn.resid_delta"][0, 5, 2]) - base, abs=1e-4)
    tops = [node for node in nodes.values() if node["feature_type"] == "logit"]
    assert sum(node["is_target_logit"] for node in tops) == 1 and tops[0]["feature"] == 3
    keys = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp", "token_prob"}
    assert all(keys <= set(node) for node in graph["nodes"])
    json.dumps(graph)


def test_names_go_both_ways_and_the_cache_has_their_shapes():
    model = planted_model()
    config = model.config
    for site in all_sites(config):
        assert transformerlens.site_of(transformerlens.hook_name(site, config), config) == site
    tokens = PlantedTask().pairs("train", 2).flat
    cache = transformerlens.cache(model, tokens)
    acts = model.run(tokens, record=all_sites(config))[1]
    assert cache["blocks.0.attn.hook_q"].shape == (4, 9, config.n_heads, 4)
    assert torch.equal(cache["blocks.0.attn.hook_q"].flatten(2), acts["0.attn.q"])
    assert torch.equal(cache["blocks.0.hook_resid_post"], acts["final_resid"])
    z = torch.einsum("bhqk,bkhc->bqhc", cache["blocks.0.attn.hook_pattern"], cache["blocks.0.attn.hook_v"])
    torch.testing.assert_close(z, cache["blocks.0.attn.hook_z"])
    assert list(transformerlens.cache(model, tokens, ["blocks.0.mlp.hook_post"])) == ["blocks.0.mlp.hook_post"]
    for hook in ("blocks.1.hook_mlp_out", "blocks.0.hook_nothing", "embed"):
        with pytest.raises(UserError, match="there is no site for the hook"):
            transformerlens.site_of(hook, config)
