"""What is told of a circuit is true of it: measured values, sums that add up, and every node and edge named."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from openwork.errors import UserError
from openwork.explain import see, to_numbers, to_text
from openwork.explain.responses import responses
from openwork.explain.short import LEAST, separated
from openwork.model import matrices, parse_node
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


def test_what_differs_by_rounding_alone_is_no_response():
    tokens, values = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([2.0, 2.0, 2.0, 2.000001, 2.0])
    found = responses(tokens, values)
    assert found.constant and found.active == 0 and not found.strongest
    values[4] = 5.0
    assert responses(tokens, values).active == 1 / 5


def test_the_numbers_of_the_whole_by_their_definitions():
    circuit, model = planted_circuit("head")
    circuit = replace(circuit, shift=100.0)  # so that A is always answered
    seen, pairs = see(circuit, model, Posed()), Posed().pairs("validation", circuit.n_pairs)
    differences = 1.5 * pairs.differences(circuit(pairs.flat)) + 100
    assert seen.difference == pytest.approx(differences.mean(0).tolist(), rel=1e-5)
    assert seen.accuracy == 0.5
    assert seen.model_difference == pytest.approx(pairs.differences(model(pairs.flat)).mean(0).tolist(), abs=1e-5)
    assert seen.model_difference != pytest.approx(pairs.differences(circuit(pairs.flat)).mean(0).tolist(), abs=1e-2)
    assert seen.mean_length == pytest.approx(float((pairs.last + 1).float().mean()))


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


def test_every_number_of_a_head_by_its_definition():
    circuit, model = random_circuit({})
    seen, pairs = see(circuit, model, Posed()), Posed().pairs("validation", circuit.n_pairs)
    assert seen.heads
    for head in seen.heads:
        site = f"{head.layer}.attn"
        for name, run in {"circuit": circuit.run, "model": model.run}.items():
            acts = run(pairs.flat, record=[f"{site}.{part}" for part in "qky"])[1]
            pattern = model.attention_pattern(head.layer, acts[f"{site}.q"], acts[f"{site}.k"])[:, head.head, -1]
            told, spread, most = getattr(head, name), [], []
            by_token = ({}, {})
            for i, (prompt, row) in enumerate(zip(pairs.flat.tolist(), pattern.tolist(), strict=True)):
                shares = [x / sum(row) for x in row]
                spread.append(math.exp(-sum(x * math.log(x) for x in shares if x > 0)))
                deciding = [x for token, x in zip(prompt, row, strict=True) if token in (A, B)]
                most.append(max(deciding) >= 0.999 * max(row))
                for token, x in zip(prompt, row, strict=True):
                    by_token[i % 2][token] = by_token[i % 2].get(token, 0.0) + x / len(pairs)
            assert told.keys == pytest.approx(sum(spread) / len(spread), rel=1e-4)
            assert told.deciding_most == pytest.approx(sum(most) / len(most))
            for member in (0, 1):
                largest = sorted(by_token[member].items(), key=lambda item: -item[1])[:3]
                assert [token for token, _ in told.tokens[member]] == [token for token, _ in largest]
                assert [x for _, x in told.tokens[member]] == pytest.approx([x for _, x in largest], rel=1e-4)
        moved = circuit.run(pairs.flat, record=[f"{site}.y"])[1][f"{site}.y"][:, -1]
        for channel, means in zip(head.channels, head.moved, strict=True):
            column = moved[:, parse_node(channel, model.config.d_head)[1]]
            assert means == pytest.approx([float(column[0::2].mean()), float(column[1::2].mean())], abs=1e-5)


def test_every_share_of_what_separates_by_its_definition():
    circuit, model = random_circuit({})
    seen, pairs = see(circuit, model, Posed()), Posed().pairs("validation", circuit.n_pairs)
    sites = [f"{layer}.{kind}" for layer in (0, 1) for kind in ("attn.y", "mlp.post_act")]
    acts = circuit.run(pairs.flat, record=sites)[1]

    def apart(node: str) -> float:
        """What a source brings to the answer's position, in A less in B."""
        site, index = parse_node(node, model.config.d_head)
        column = acts[site.replace("attn.v", "attn.y")][:, -1, index]
        return float(column[0::2].mean() - column[1::2].mean())

    writes, whole = dict(seen.parts.writes), seen.parts.total[0] - seen.parts.total[1]
    told = separated(seen)
    assert len(told) > 2
    assert [part.share for part in told] == sorted((part.share for part in told), key=lambda share: -abs(share))
    assert {part.write for part in told} == {
        name for name, (a, b) in writes.items() if abs(a - b) >= LEAST * abs(whole)
    }
    for part in told:
        a, b = writes[part.write]
        assert part.share == pytest.approx((a - b) / whole)
        brought = {edge.source: edge.weight * apart(edge.source) for edge in circuit.edges if edge.target == part.write}
        total = sum(brought.values())
        shares = {source: x / total for source, x in brought.items() if abs(x) >= LEAST * abs(total)} if total else {}
        assert dict(part.sources) == pytest.approx(shares, rel=1e-3)


@pytest.mark.parametrize("wiring", [{}, {"bias": False}, {"sink": False}], ids=str)
def test_the_bias_of_a_node_holds_what_its_edges_do_not(wiring):
    circuit, model = random_circuit(wiring)
    seen, parameters = see(circuit, model, Posed()), dict(model.named_parameters())
    matrix = {matrix.target: matrix for matrix in matrices(model)}
    constant = {node.name: node.task.resting for node in seen.nodes if node.idle}
    assert any(node.folded for node in seen.nodes) or wiring == {"bias": False}
    for node in seen.nodes:
        site, row = parse_node(node.name, model.config.d_head)
        if site not in matrix:
            assert node.bias is None and not node.edges
            continue
        values, bias = circuit.ablation_values[matrix[site].argument], parameters.get(f"{matrix[site].name}.bias")
        rest = float(matrix[site].weight[row] @ values) + (0.0 if bias is None else float(bias[row]))
        for source, weight in node.edges:
            rest -= weight * float(values[parse_node(source, model.config.d_head)[1]])
        assert node.bias == pytest.approx(rest, abs=1e-5)
        assert node.folded == pytest.approx(sum(weight * constant.get(source, 0.0) for source, weight in node.edges))


@pytest.mark.parametrize("sink", [True, False])
def test_a_constant_value_is_idle_only_where_no_sink_takes_a_part_of_the_attention(sink):
    circuit, model = random_circuit({"sink": sink})
    circuit = replace(circuit, edges=tuple(edge for edge in circuit.edges if ".attn.v." not in edge.target))
    seen = see(circuit, model, Posed())
    nodes = {node.name: node for node in seen.nodes}
    values = [node for name, node in nodes.items() if ".attn.v." in name]
    assert values and all(node.task.constant and node.idle != sink for node in values)
    others = [node for name, node in nodes.items() if ".attn.v." not in name]
    assert all(node.idle == node.task.constant for node in others)
    pairs = Posed().pairs("validation", circuit.n_pairs)
    moved = [source for node in seen.nodes for source, _ in node.edges if ".attn.v." in source]
    largest = max(moved, key=lambda name: abs(nodes[name].task.resting))
    site, index = parse_node(largest.replace("attn.v", "attn.y"), model.config.d_head)
    carried = circuit.run(pairs.flat, record=[site])[1][site][..., index]
    assert (float(carried.max() - carried.min()) > 1e-4) == sink  # what its edges add varies
    assert ("how much its head moves of it varies" in to_text(seen, texts)) == sink


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
