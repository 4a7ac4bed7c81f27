"""A circuit in other tools' forms, and activations under other libraries' names."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import torch

from openwork.artifacts import Circuit, Edge
from openwork.errors import UserError
from openwork.interop import attribution, graphs, transformerlens
from openwork.model import (
    NODE_SITES,
    ModelConfig,
    Transformer,
    ablated_sites,
    all_sites,
    node_name,
    node_sites,
    parse_node,
)
from openwork.model.transformer import NONLINEARITIES
from openwork.pruning import edges_between
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
    order = all_sites(model.config)
    places = sorted(
        (parse_node(name, 4) for name in (*NODES, LATER)), key=lambda place: (order.index(place[0]), place[1])
    )
    kept: dict[str, list[int]] = {}
    for site, index in places:
        kept.setdefault(site, []).append(index)
    weight = {"k": 1.0, "v": 1.0, "resid_delta": 3.0}
    edges = [Edge(s, t, weight[t.split(".")[2]]) for s, t in sorted(EDGES)]
    return Circuit(
        model_hash=model.hash,
        task="planted",
        task_hash="planted",
        ablation="mean",
        nodes=tuple(node_name(site, index, 4) for site, index in places),
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
    base = model.weights_of(planted.edges, planted.ablation_values)["blocks.0.attn.out.bias"][2].item()
    assert arriving == pytest.approx(float(acts["0.attn.resid_delta"][0, 5, 2]) - base, abs=1e-4)
    tops = [node for node in nodes.values() if node["feature_type"] == "logit"]
    assert sum(node["is_target_logit"] for node in tops) == 1 and tops[0]["feature"] == 3
    assert written["jsNodeId"] == f"0_{written['feature']}-0" and nodes["E_1_1"]["jsNodeId"] == "E_1-1"
    assert tops[0]["jsNodeId"] == "L_3-5"
    keys = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp", "token_prob"}
    assert all(keys <= set(node) for node in graph["nodes"])
    json.dumps(graph)


def everything(**wiring) -> tuple[Transformer, Circuit]:
    """A random model and the circuit of all its nodes, with zero ablation."""
    sizes = {"n_layers": 2, "d_model": 8, "d_head": 4, "d_mlp": 6, "n_ctx": 16, "d_vocab": 27, "activation_fraction": 1}
    model = Transformer(ModelConfig(**{**sizes, **wiring}), seed=1).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.5)
    model.tokenizer = Letters()
    widths = node_sites(model.config)
    kept = {site: torch.arange(width) for site, width in widths.items()}
    circuit = replace(
        make_planted(),
        nodes=tuple(node_name(site, i, 4) for site, width in widths.items() for i in range(width)),
        edges=edges_between(model, kept),
        kept=kept,
        ablation_values={site: torch.zeros(width) for site, width in ablated_sites(model.config).items()},
        model=model,
    )
    return model, circuit


BIASES = {"attn.q": "attn.q", "attn.k": "attn.k", "attn.v": "attn.v", "attn.resid_delta": "attn.out"}
BIASES |= {"mlp.post_act": "mlp.up", "mlp.resid_delta": "mlp.down"}


@pytest.mark.parametrize(
    "wiring",
    [
        {},
        {"bias": False, "sink": False, "activation": "relu", "bigram": "learned"},
        {"activation_fraction": 0.5, "sparse_sites": ("attn.act_in", "mlp.act_in", "attn.v")},
        {"positions": "concatenated", "d_position": 4},
    ],
    ids=["plain", "no biases", "sparse", "positions"],
)
def test_links_into_a_node_add_up_to_its_input(wiring):
    """With every node kept and zero ablation, what flows into a node is its input, biases and positions aside."""
    model, circuit = everything(**wiring)
    graph = attribution.attribution_graph(circuit, model, "aeff")
    arriving = dict.fromkeys((node["node_id"] for node in graph["nodes"]), 0.0)
    for link in graph["links"]:
        arriving[link["target"]] += link["weight"]
    logits, acts = model.run(torch.tensor([[0, 1, 5, 6, 6]]), record=all_sites(model.config))
    parameters, checked = dict(model.named_parameters()), set()
    for node in graph["nodes"]:
        got = arriving[node["node_id"]]
        if node["feature_type"] == "logit":
            bias = model.unembed.bias[node["feature"]] if model.config.bias else 0.0
            assert got + float(bias) == pytest.approx(float(logits[0, -1, node["feature"]]), abs=1e-4)
        if node["feature_type"] != "cross layer transcoder":
            continue
        site, index = parse_node(node["clerp"], 4)
        layer, _, kind = site.partition(".")
        if kind in BIASES and model.config.bias:
            got += float(parameters[f"blocks.{layer}.{BIASES[kind]}.bias"][index])
        if kind == "mlp.post_act":
            got = float(NONLINEARITIES[model.config.activation](torch.tensor(got)))
        if not (kind.endswith("act_in") and index >= 8):
            assert got == pytest.approx(float(acts[site][0, node["ctx_idx"], index]), abs=1e-4), node["clerp"]
            checked.add(kind)
    assert checked == set(NODE_SITES)


def test_nothing_flows_into_a_read_that_abs_topk_closed():
    """Even where it differs from its ablation value, and so stands in the graph."""
    model, circuit = everything(activation_fraction=0.5, sparse_sites=("attn.act_in", "mlp.act_in"))
    circuit = replace(
        circuit, ablation_values={site: torch.ones(len(x)) for site, x in circuit.ablation_values.items()}
    )
    graph = attribution.attribution_graph(circuit, model, "aeff")
    reads = {node["node_id"]: node["activation"] for node in graph["nodes"] if ".act_in." in node["clerp"]}
    closed = {name for name, activation in reads.items() if activation == 0}
    reached = {link["target"] for link in graph["links"]}
    assert closed and not closed & reached and set(reads) - closed <= reached


def test_a_final_stream_that_is_ablated_is_what_the_logits_read(planted):
    """Where no channel that the circuit writes is kept there, nothing of it reaches the answers."""
    ablated = {**planted.ablation_values, "final_resid": torch.zeros(12)}
    for channel, reached in ((2, True), (3, False)):
        kept = {**planted.kept, "final_resid": torch.tensor([channel])}
        nodes = (*planted.nodes, f"final_resid.{channel}")
        circuit = replace(planted, ablation_values=ablated, kept=kept, nodes=nodes)
        graph = attribution.attribution_graph(circuit, planted.model, "aefgh")
        kinds = {node["node_id"]: node["feature_type"] for node in graph["nodes"]}
        sources = {kinds[link["source"]] for link in graph["links"] if kinds[link["target"]] == "logit"}
        assert ("cross layer transcoder" in sources) is reached
        assert "final_resid" not in json.dumps(graph)
        flow = graphs.to_networkx(circuit, 4)
        assert flow.has_edge("0.attn.resid_delta.2", f"final_resid.{channel}") is reached


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


def test_a_pattern_of_no_layer_is_refused():
    model = planted_model()
    for hook in ("blocks.x.attn.hook_pattern", "blocks.9.attn.hook_pattern", "foo.0.attn.hook_pattern"):
        with pytest.raises(UserError, match="there is no site for the hook"):
            transformerlens.cache(model, torch.zeros(1, 3, dtype=torch.long), [hook])


@pytest.mark.parametrize("wiring", [{"residual_activation": "relu"}, {"sparse_sites": ("resid_mid",)}])
def test_a_stream_that_is_no_plain_sum_has_no_attribution_graph(planted, wiring):
    model = Transformer(replace(planted.model.config, activation_fraction=0.5, **wiring))
    model.tokenizer = Letters()
    with pytest.raises(UserError, match="a residual stream that is a plain sum"):
        attribution.attribution_graph(planted, model, "ab")


def test_csv_has_weights_to_the_bit_and_the_graph_says_what_it_is_of(tmp_path):
    planted = make_planted()
    third = planted.edges[0]._replace(weight=1 / 3)
    planted = replace(planted, edges=(third, *planted.edges[1:]), losses={"unpruned": 0.1, "circuit": 0.2})
    graphs.write_csv(planted, tmp_path / "c.csv", 4)
    with (tmp_path / "c.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["weight"]) == 1 / 3
    about = {"task": "planted", "model_hash": planted.model_hash, "ablation": "mean", "target": 0.15, "loss": 0.2}
    assert graphs.to_networkx(planted, 4).graph == about


def test_names_are_those_of_transformerlens():
    config = ModelConfig(n_layers=2, d_model=8, d_head=4, n_ctx=8, d_vocab=16)
    kinds = {
        **{"resid_in": "hook_resid_pre", "resid_mid": "hook_resid_mid"},
        **{"attn.act_in": "ln1.hook_normalized", "mlp.act_in": "ln2.hook_normalized"},
        **{"attn.q": "attn.hook_q", "attn.k": "attn.hook_k", "attn.v": "attn.hook_v", "attn.y": "attn.hook_z"},
        **{"attn.resid_delta": "hook_attn_out", "mlp.resid_delta": "hook_mlp_out", "mlp.post_act": "mlp.hook_post"},
    }
    names = {f"{layer}.{ours}": f"blocks.{layer}.{theirs}" for layer in (0, 1) for ours, theirs in kinds.items()}
    names["final_resid"] = "blocks.1.hook_resid_post"
    assert {site: transformerlens.hook_name(site, config) for site in all_sites(config)} == names


def test_a_layer_ends_where_the_next_begins():
    model = Transformer(ModelConfig(n_layers=2, d_model=8, d_head=4, n_ctx=8, d_vocab=16), seed=1).eval()
    tokens = torch.arange(6)[None]
    cache, acts = transformerlens.cache(model, tokens), model.run(tokens, record=["1.resid_in", "final_resid"])[1]
    assert torch.equal(cache["blocks.0.hook_resid_post"], acts["1.resid_in"])
    assert torch.equal(cache["blocks.1.hook_resid_post"], acts["final_resid"])
