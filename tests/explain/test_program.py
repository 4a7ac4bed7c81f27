"""The program is the circuit: for every wiring that it takes, it gives the circuit's logits from token ids alone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from openwork import models, tasks
from openwork.artifacts import Circuit
from openwork.errors import UserError
from openwork.explain import program as programs
from openwork.explain import see, write_program
from openwork.pruning import load_circuit
from tests.explain.circuits import Posed, planted_circuit, random_circuit

WIRINGS = [
    {},
    {"activation_fraction": 1},
    {"activation_fraction": 0.6, "residual_activation": "relu"},
    {"activation_fraction": 0.1},
    {"bias": False, "activation": "gelu_tanh"},
    {"sink": False, "activation": "relu"},
    {"bigram": "learned"},
    {"sparse_sites": ("attn.act_in", "mlp.act_in"), "activation_fraction": 0.4},
]


def run(text):
    """What the program defines, run alone."""
    namespace = {}
    exec(text, namespace)
    return namespace


def check(text, circuit, pairs):
    """Both logits and the calibrated difference of every prompt, against `Circuit.run`."""
    found = run(text)
    due = pairs.at_answer(circuit(pairs.flat).detach()).unflatten(0, (-1, 2)).double()
    for i, (a, b) in enumerate(pairs.right.tolist()):
        for member in (0, 1):
            tokens = pairs.tokens[i, member, : int(pairs.last[i]) + 1].tolist()
            wanted = due[i, member, [a, b]]
            torch.testing.assert_close(torch.tensor(found["logits"](tokens, (a, b))), wanted, atol=1e-4, rtol=0)
            calibrated = circuit.scale * float(wanted[0] - wanted[1]) + circuit.shift
            assert abs(found["difference"](tokens, a, b) - calibrated) < 1e-4


@pytest.mark.parametrize("kind", ["head", "mlp", "two_hops"])
def test_planted_circuits_are_written_whole(kind):
    circuit, model = planted_circuit(kind)
    text, about = write_program(circuit, model, Posed(kind))
    for split in ("validation", "held_out"):
        check(text, circuit, Posed(kind).pairs(split, circuit.n_pairs))
    assert about["lines_of_code"] < 100 and max(about["differs"].values()) < 1e-5


def test_few_pairs_are_looked_at_and_all_compared_a_few_at_a_time(monkeypatch):
    circuit, model = planted_circuit("head")
    for module in ("program", "seen"):
        monkeypatch.setattr(f"openwork.explain.{module}.LOOKED_AT", 5)
    seen, pairs = see(circuit, model, Posed()), Posed().pairs("validation", 5)
    assert (seen.n_pairs, seen.mean_length) == (5, pytest.approx(float((pairs.last + 1).float().mean())))
    text, about = write_program(circuit, model, Posed())
    assert about["pairs"] == circuit.n_pairs > 5
    at_once, forward = [], Circuit.__call__
    monkeypatch.setattr(Circuit, "__call__", lambda self, x, due=None: at_once.append(len(x)) or forward(self, x, due))
    assert programs.disagreement(text, circuit, Posed().pairs("validation", 12)) < 1e-4
    assert at_once == [10, 10, 4]


@pytest.mark.parametrize("which", [0, 2])
@pytest.mark.parametrize("share", [3, 8])
@pytest.mark.parametrize("wiring", WIRINGS, ids=str)
def test_random_circuits_of_every_wiring_give_the_circuits_logits(wiring, share, which):
    circuit, model = random_circuit(wiring, share, which)
    text, _ = write_program(circuit, model, Posed())
    check(text, circuit, Posed().pairs("validation", circuit.n_pairs))


def test_a_query_whose_key_is_ablated_still_makes_scores():
    """As in circuits of others: what its k channels are not, they hold their ablation values."""
    circuit, model = random_circuit({}, which=0)
    gone = tuple(name for name in circuit.nodes if ".attn.k." in name)
    circuit = replace(
        circuit,
        nodes=tuple(name for name in circuit.nodes if name not in gone),
        edges=tuple(edge for edge in circuit.edges if edge.target not in gone),
        kept={site: index for site, index in circuit.kept.items() if not site.endswith("attn.k")},
    )
    text, _ = write_program(circuit, model, Posed())
    check(text, circuit, Posed().pairs("validation", circuit.n_pairs))


def test_the_file_needs_nothing_but_numpy(tmp_path):
    circuit, model = random_circuit({})
    text, _ = write_program(circuit, model, Posed())
    modules = {name.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for name in node.names}
    assert modules == {"math", "numpy"} and "from " not in text.partition('"""\n\nimport')[2].partition("def ")[0]
    (tmp_path / "circuit.py").write_text(text)
    pairs = Posed().pairs("validation", 1)
    tokens, (a, b) = pairs.tokens[0, 0].tolist(), pairs.right[0].tolist()
    script = f"import sys; sys.modules['torch'] = sys.modules['openwork'] = None; import circuit; \
print(circuit.difference({tokens}, {a}, {b}))"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    wanted = circuit.scale * pairs.differences(circuit(pairs.flat))[0, 0] + circuit.shift
    assert abs(float(done.stdout) - float(wanted)) < 1e-4


def test_what_it_does_not_know_it_says():
    circuit, model = planted_circuit("head")
    found = run(write_program(circuit, model, Posed())[0])
    with pytest.raises(ValueError, match="does not know the token 99"):
        found["logits"]([0, 99], (3, 4))
    with pytest.raises(ValueError, match="does not know the answer 7 after the token"):
        found["logits"](Posed().pairs("validation", 1).tokens[0, 0].tolist(), (3, 7))


@pytest.mark.parametrize(
    ("wiring", "names"),
    [
        ({"norm": "layer"}, "model.norm is 'layer'"),
        ({"positions": "learned"}, "model.positions is 'learned'"),
        ({"positions": "concatenated"}, "model.positions is 'concatenated'"),
        ({"sparse_sites": ("resid_mid",), "activation_fraction": 0.7}, "the residual stream itself is sparse"),
    ],
    ids=str,
)
def test_wirings_without_such_a_program_are_refused(wiring, names):
    circuit, model = random_circuit(wiring)
    with pytest.raises(UserError, match=names):
        write_program(circuit, model, Posed())


def test_a_program_that_differs_is_not_handed_out(monkeypatch):
    circuit, model = random_circuit({})
    monkeypatch.setattr(programs, "number", lambda x: f"{x:.2g}")
    with pytest.raises(UserError, match="would differ from the circuit by"):
        write_program(circuit, model, Posed())


def test_a_program_that_gives_no_number_is_not_handed_out(monkeypatch):
    found = iter((0.0, float("nan")))
    monkeypatch.setattr(programs, "disagreement", lambda *asked: next(found))
    circuit, model = planted_circuit("head")
    with pytest.raises(UserError, match="would differ from the circuit"):
        write_program(circuit, model, Posed())


def test_another_task_is_refused():
    circuit, model = planted_circuit("head")
    with pytest.raises(UserError, match=r"of task planted .*, not of planted"):
        write_program(replace(circuit, task_hash="other"), model, Posed())


def test_no_name_of_a_task_becomes_code():
    circuit, model = planted_circuit("head")
    text, _ = write_program(replace(circuit, task='"""\nimport os\n'), model, Posed())
    assert not any(isinstance(node, ast.Import) and node.names[0].name == "os" for node in ast.walk(ast.parse(text)))


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted((models.path("reference-sparse") / "circuits").glob("*.circuit")))
def test_every_reference_circuit_can_be_written_as_a_program_that_agrees(file):
    model = models.load_model(models.path("reference-sparse"))
    circuit = replace(load_circuit(file, model), n_pairs=128)  # of 1,024, which `openwork explain --program` compares
    text, numbers = write_program(circuit, model, tasks.get(circuit.task, model.tokenizer))
    assert max(numbers["differs"].values()) <= 1e-4 and numbers["pairs"] == circuit.n_pairs
    for until_read in text.split("size = "):
        summed = re.findall(r"^ +(x\d+) = ", until_read, re.MULTILINE)
        assert len(summed) == len(set(summed)), "a channel of the stream has one line for each time that it is read"
