from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from openwork.corpus import Corpus
from openwork.errors import UserError
from openwork.model import Transformer, node_name, parse_node
from openwork.pruning import edges_between
from openwork.viewer.gather import gather
from openwork.viewer.payload import Payload
from tests.viewer.toys import ToyTask, toy_card, toy_circuit, toy_model


@pytest.fixture(scope="module")
def payload(tiny_corpus: Corpus) -> Payload:
    model, task = toy_model(tiny_corpus), ToyTask(tiny_corpus)
    circuit = toy_circuit(model, task)
    return gather(circuit, task, toy_card(circuit), model, tiny_corpus)  # pyright: ignore


def test_nodes_and_edges_are_the_circuit_s(payload: Payload, tiny_corpus: Corpus) -> None:
    circuit = toy_circuit(toy_model(tiny_corpus), ToyTask(tiny_corpus))

    assert [node.name for node in payload.nodes] == list(circuit.nodes)
    named = [(payload.nodes[s].name, payload.nodes[t].name, w) for s, t, w in payload.edges]
    assert named == [tuple(edge) for edge in circuit.edges]
    assert {(head.layer, head.head) for head in payload.heads} == {(0, 0), (1, 0)}


def test_weights_to_tokens_are_the_non_zero_ones_of_the_example(payload: Payload, tiny_corpus: Corpus) -> None:
    model = toy_model(tiny_corpus)
    prompt = {token for member in payload.task.example for token in member.tokens}

    assert {(token, j) for token, j, _ in payload.embedding} == {(token, j) for token in prompt for j in (0, 1)}
    assert all(weight == float(model.embed.weight.detach()[token, j]) for token, j, weight in payload.embedding)
    answers = {payload.task.example[0].right, payload.task.example[0].wrong}
    assert {(j, token) for j, token, _ in payload.unembedding} == {(j, token) for token in answers for j in (0, 1)}
    assert all(weight == float(model.unembed.weight.detach()[token, j]) for j, token, weight in payload.unembedding)


def test_activations_and_patterns_on_the_example_are_the_runs_own(payload: Payload, tiny_corpus: Corpus) -> None:
    model, task = toy_model(tiny_corpus), ToyTask(tiny_corpus)
    circuit = toy_circuit(model, task)
    tokens = task.pairs("validation", 1).tokens[0, :, :-1]  # without the padding behind the answer's place
    site = "1.attn.v"
    whole = model.run(tokens, record=[site])[1][site]
    alone = circuit.run(tokens, record=[site])[1][site]
    node = next(node for node in payload.nodes if node.name == "1.attn.v.head0.ch1")

    assert torch.allclose(torch.tensor(node.model), whole[..., 1])
    assert torch.allclose(torch.tensor(node.circuit), alone[..., 1])
    assert len(payload.heads[0].model[0]) == tokens.shape[1]


def test_the_answers_probabilities_give_the_losses_again(payload: Payload, tiny_corpus: Corpus) -> None:
    model, task = toy_model(tiny_corpus), ToyTask(tiny_corpus)
    circuit, pairs = toy_circuit(model, task), task.pairs("validation", 1)

    def mean_loss(runs: list[float]) -> torch.Tensor:
        return -torch.tensor(runs).log().mean()

    whole = mean_loss([member.model.of_two for member in payload.task.example])
    alone = mean_loss([member.circuit.of_two for member in payload.task.example])
    assert torch.allclose(whole, pairs.loss(model(pairs.flat)), atol=1e-5)
    assert torch.allclose(alone, pairs.loss(circuit(pairs.flat), circuit.scale, circuit.shift), atol=1e-5)


def test_every_number_of_values_patterns_and_logits_by_its_definition(tiny_corpus: Corpus) -> None:
    model, task = toy_model(tiny_corpus).requires_grad_(False), ToyTask(tiny_corpus)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.bigram.normal_(generator=draw)
        model.unembed.bias.normal_(generator=draw)
    plain = toy_circuit(model, task)
    second_head = {f"0.attn.{part}": torch.tensor([4, 6]) for part in "qkv"}
    kept = {**plain.kept, **second_head}
    circuit = replace(
        plain,
        kept=kept,
        nodes=tuple(node_name(site, i, 4) for site, index in kept.items() for i in index.tolist()),
        edges=edges_between(model, kept),
        ablation_values={site: torch.randn(len(x), generator=draw) for site, x in plain.ablation_values.items()},
    )
    payload = gather(circuit, task, None, model, tiny_corpus)  # pyright: ignore

    for node in payload.nodes:
        site, index = parse_node(node.name, 4)
        assert node.ablated == float(circuit.ablation_values[site][index])
        assert (node.head, node.channel) == (divmod(index, 4) if site.endswith((".q", ".k", ".v")) else (None, None))
    tokens = task.pairs("validation", 1).tokens[0, :, :-1]
    of_head = {(head.layer, head.head): head for head in payload.heads}
    assert set(of_head) == {(0, 1), (1, 0)}
    for (layer, head), view in of_head.items():
        for told, run in ((view.model, model.run), (view.circuit, circuit.run)):
            acts = run(tokens, record=[f"{layer}.attn.q", f"{layer}.attn.k"])[1]
            pattern = model.attention_pattern(layer, acts[f"{layer}.attn.q"], acts[f"{layer}.attn.k"])[:, head]
            assert torch.allclose(torch.tensor(told), pattern)
    for member, bias, (right, wrong) in zip(payload.task.example, payload.task.bias, payload.task.bigram, strict=True):
        row = model.bigram[member.tokens[-1]]
        assert bias == float(model.unembed.bias[member.right])
        assert (right, wrong) == (float(row[member.right]), float(row[member.wrong])) and right != wrong


def test_every_token_has_its_text(payload: Payload, tiny_corpus: Corpus) -> None:
    shown = [token for node in payload.nodes for window in node.positive for token in window.tokens]

    assert shown
    assert {str(token) for token in shown} <= set(payload.texts)
    assert payload.texts[str(payload.task.example[0].right)] == "'"


def test_parts_that_do_not_belong_together_are_refused(tiny_corpus: Corpus) -> None:
    model, task = toy_model(tiny_corpus), ToyTask(tiny_corpus)
    circuit = toy_circuit(model, task)
    card = toy_card(circuit)
    wrong = {
        "model": (replace(circuit, model_hash="0" * 64), task, None),
        "task": (circuit, replace(task, hash="1" * 64), None),
        "card's task": (circuit, task, replace(card, task_hash="2" * 64)),
        "card's size is 99 nodes": (circuit, task, replace(card, n_nodes=99)),
        "card's size is 99 edges": (circuit, task, replace(card, n_edges=99)),
    }
    for what, (one, other, third) in wrong.items():
        with pytest.raises(UserError, match=what):
            gather(one, other, third, model, tiny_corpus)  # pyright: ignore


def test_positions_that_are_read_and_nodes_behind_the_last_layer_have_their_place(tiny_corpus: Corpus) -> None:
    """A position's channel has no row in the embedding; a node of the final residual stream is not drawn."""
    config = replace(toy_model(tiny_corpus).config, positions="concatenated", d_position=4)
    model, task = Transformer(config, seed=3).eval(), ToyTask(tiny_corpus)
    model.tokenizer = tiny_corpus.tokenizer
    plain = toy_circuit(model, task)
    kept = {**plain.kept, "0.mlp.act_in": torch.tensor([0, 19]), "final_resid": torch.tensor([2])}
    values = {**plain.ablation_values, "final_resid": torch.zeros(16)}
    names = [name.replace("0.mlp.act_in.1", "0.mlp.act_in.19") for name in plain.nodes]
    circuit = replace(plain, kept=kept, ablation_values=values, nodes=(*names, "final_resid.2"))
    circuit = replace(circuit, edges=edges_between(model, kept))
    payload = gather(circuit, task, None, model, tiny_corpus)  # pyright: ignore
    assert [node.name for node in payload.nodes] == names
    assert {j for _, j, _ in payload.embedding} == {0, 1}
