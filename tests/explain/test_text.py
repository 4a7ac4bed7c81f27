"""What is told of a circuit is true of it: measured values, sums that add up, and every node and edge named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from openwork.errors import UserError
from openwork.explain import see, to_numbers, to_text
from openwork.explain.responses import responses
from openwork.explain.short import separated
from tests.explain.circuits import Posed, planted_circuit, random_circuit
from tests.pruning.planted import A, B

WIRINGS = [
    {},
    {"norm": "layer"},
    {"positions": "learned", "bigram": "learned"},
    {"positions": "concatenated"},
    {"sink": False, "bias": False},
    {"activation_fraction": 0.6, "residual_activation": "relu"},
    {"sparse_sites": ("resid_mid",), "activation_fraction": 0.7},
]


def texts(tokens):
    return [f"<{token}>" for token in tokens]


def test_selectivity_is_the_share_of_the_three_strongest_tokens():
    tokens = torch.tensor([1, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5])
    values = torch.tensor([4.0, 4.0, -1.0, 1.0, 0.5, 0, 0, 0, 0, 0, 0])
    found = responses(tokens, values)
    # away from the median 0: 8 on token 1, 1 on tokens 2 and 3, 0.5 on token 4, of 10.5 in all
    assert [r.token for r in found.strongest] == [1, 2, 3]
    assert [round(r.value, 6) for r in found.strongest] == [4.0, -1.0, 1.0]
    assert abs(found.selectivity - 10 / 10.5) < 1e-9
    assert abs(found.active - 5 / 11) < 1e-9
    assert not found.constant


def test_a_node_that_never_moves_responds_to_nothing():
    found = responses(torch.tensor([1, 2, 3]), torch.tensor([2.0, 2.0, 2.0]))
    assert found.constant and found.resting == 2.0 and found.selectivity == 0 and not found.strongest


@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_the_answer_is_the_sum_of_its_parts(wiring):
    circuit, model = random_circuit(wiring)
    seen = see(circuit, model, Posed())
    pairs = Posed().pairs("validation", circuit.n_pairs)
    total = pairs.differences(circuit(pairs.flat)).mean(0).tolist()
    assert seen.parts.total == pytest.approx(total, abs=1e-5)
    linear = "residual_activation" not in wiring and "sparse_sites" not in wiring
    assert (max(map(abs, seen.parts.rest)) < 1e-4) == linear
    to_text(seen, texts)


def test_the_planted_head_is_told_as_it_was_planted():
    circuit, model = planted_circuit("head")
    seen = see(circuit, model, Posed())
    assert seen.deciding == ((A,), (B,))
    (head,) = seen.heads
    assert head.query_constant and not head.key_constant
    assert min(head.circuit.deciding) > 0.99 and head.circuit.keys < 1.1  # it looks for markers, A and B alike
    (part,) = separated(seen)
    assert part.write == "0.attn.resid_delta.2" and abs(part.share - 1) < 0.1
    assert part.sources == (("0.attn.v.head0.ch0", 1.0),)
    nodes = {node.name: node for node in seen.nodes}
    a, b = nodes["0.attn.v.head0.ch0"].on_deciding
    assert a > 1 and b < -1
    query = nodes["0.attn.q.head0.ch0"]
    assert query.task.constant and query.task.resting == 8.0 and query.bias == 8.0


def test_values_are_the_circuits_and_patterns_of_both_runners():
    circuit, model = random_circuit({}, share=3)
    seen, pairs = see(circuit, model, Posed()), Posed().pairs("validation", circuit.n_pairs)
    site = "1.attn.v"
    runs = {"circuit": circuit.run, "model": model.run}
    values = circuit.run(pairs.flat, record=[site])[1][site]
    node = next(node for node in seen.nodes if node.name.startswith(site))
    column = values[..., int(circuit.kept[site][0])]
    assert abs(node.at_answer[0] - float(column[::2, -1].mean())) < 1e-5
    assert abs(node.task.largest - float(column.max())) < 1e-5
    head = seen.heads[-1]
    for name, run in runs.items():
        acts = run(pairs.flat, record=["1.attn.q", "1.attn.k"])[1]
        pattern = model.attention_pattern(1, acts["1.attn.q"], acts["1.attn.k"])[:, head.head, -1]
        sink = 1 - pattern.sum(-1)[1::2].mean()
        assert abs(getattr(head, name).sink[1] - float(sink)) < 1e-5
        at_marker = pattern[pairs.flat.eq(A)].sum() / len(pairs)
        assert abs(getattr(head, name).deciding[0] - float(at_marker)) < 1e-5


def test_the_text_names_every_node_and_edge_is_short_and_the_same_each_time():
    circuit, model = planted_circuit("two_hops")
    text = to_text(see(circuit, model, Posed("two_hops")), texts)
    assert text == to_text(see(circuit, model, Posed("two_hops")), texts)
    assert all(f"  {name}" in text for name in circuit.nodes)
    for edge in circuit.edges:
        assert f"{edge.weight:+.3g}"[1:] + f" * {edge.source.split('.', 2)[2]}" in text
    places = [text.index(f"\n  {name}") for name in circuit.nodes]
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= 120 and text.count("\n") < 110
    for said in ("Loss 0.200 nats", "1.5 * (logit of A - logit of B) - 0.25", "A is '<3>', B is '<4>'", "always +8"):
        assert said in text, said


def test_numbers_for_json_have_the_derived_ones_too():
    circuit, model = planted_circuit("head")
    numbers = json.loads(json.dumps(to_numbers(see(circuit, model, Posed()))))
    assert {"separated_by", "parts", "nodes", "heads"} <= set(numbers)
    assert all("selectivity" in node["task"] for node in numbers["nodes"])


def test_another_task_is_refused():
    circuit, model = planted_circuit("head")
    with pytest.raises(UserError, match=r"of task planted .*, not of planted"):
        see(replace(circuit, task_hash="other"), model, Posed())


def test_a_circuit_that_replaces_the_final_stream_is_refused():
    circuit, model = planted_circuit("mlp")
    replaced = replace(circuit, ablation_values={**circuit.ablation_values, "final_resid": torch.zeros(12)})
    with pytest.raises(UserError, match="replaces channels of final_resid"):
        see(replaced, model, Posed("mlp"))
