"""The release's tokenizer, circuits and store, on files of the same form."""

from __future__ import annotations

import importlib
import json
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from openwork.errors import UserError
from openwork.faithfulness import verify
from openwork.faithfulness.controls import random_circuits
from openwork.interop import openai
from openwork.interop.openai.tokenizer import PATTERN
from openwork.model import mean_activations, node_sites
from openwork.pruning import PruneConfig, edges_between, load_circuit
from openwork.pruning.calibration import calibrate
from tests.interop.releases import SMALL, write
from tests.pruning.planted import PlantedTask

WORDS = (
    "def",
    "lf",
    "self",
    "return",
    "('",
    '("',
    "')",
    ")\n",
    " the",
    " ==",
    "    ",
    "==",
    "12",
    "123",
    "\n\n",
    " re",
    "é",
)
ASCII_PATTERN = (  # the release's pattern, for ASCII text
    r"[^\r\nA-Za-z0-9]?[A-Za-z]+|[0-9]{1,3}| ?[^\sA-Za-z0-9]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_letters() -> dict[int, str]:
    """GPT-2's printable character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(others)}


LETTERS = byte_letters()


def write_tokenizer(directory: Path) -> dict[str, int]:
    """`encoder.json` and `vocab.bpe` whose merges build `WORDS` from the left; returns the encoder."""
    directory.mkdir(parents=True, exist_ok=True)
    encoder = {letter: i for i, letter in enumerate(LETTERS.values())}
    merges = []
    for word in WORDS:
        letters = [LETTERS[b] for b in word.encode()]
        for i in range(1, len(letters)):
            pair = "".join(letters[:i]), letters[i]
            if pair not in merges:
                merges.append(pair)
                encoder["".join(pair)] = len(encoder)
    (directory / "encoder.json").write_text(json.dumps(encoder), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (directory / "vocab.bpe").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return encoder


def encode_plainly(text: str, directory: Path) -> list[int]:
    """As tiktoken does: in each piece, join the two neighbours whose join has the lowest id, until no join is a token;
    a piece that is a token is one."""
    encoder = json.loads((directory / "encoder.json").read_text(encoding="utf-8"))
    ids = []
    for piece in re.findall(ASCII_PATTERN, text):
        parts = [LETTERS[b] for b in piece.encode()]
        if "".join(parts) in encoder:
            parts = ["".join(parts)]
        while joins := [(encoder[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in encoder]:
            at = min(joins)[1]
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        ids += [encoder[part] for part in parts]
    return ids


TEXT = "class A:\n    def __init__(self, x1234):\n\n\n        self.x = ('a' == \"b\")  # the end//\n\treturn 12 \n"
ODD = (
    TEXT.upper(),
    TEXT[::-1],
    "self",
    "selfself myself delf",
    "\r\n \r\n",
    " ",
    "",
    "  x",
    "a\t \n b",
    "('('(\"\n)\n",
)


def test_the_release_s_tokenizer_encodes_as_tiktoken_does_and_decodes_to_the_same(tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = openai.load_tokenizer(tmp_path)
    for text in (TEXT, *ODD):
        assert tokenizer.encode(text) == encode_plainly(text, tmp_path), text
    for text in (TEXT, *ODD, "é—ß", "日本 'x'"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.tokens(tokenizer.encode("myself"))[-1] == "self"  # a join that vocab.bpe does not name
    assert (tokenizer.end_of_text, tokenizer.d_vocab) == (2047, 2048)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert type(tokenizer).load(tmp_path / "tokenizer.json").encode(TEXT) == encode_plainly(TEXT, tmp_path)


def test_tiktoken_itself_agrees(tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    write_tokenizer(tmp_path)
    ranks = data_gym_to_mergeable_bpe_ranks(str(tmp_path / "vocab.bpe"), str(tmp_path / "encoder.json"))
    theirs = tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 2047})
    ours = openai.load_tokenizer(tmp_path)
    for text in (TEXT, *ODD, "é—ß Naïve(ÉÉ)  …\n\n", "日本 'x') [[1]]\n\n", "\u2028 x\u00a0\u3000y ٣٤٥٦"):
        assert ours.encode(text) == theirs.encode(text), text


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("encoder.json", '{"a": 0}', "256 bytes"),
        ("encoder.json", "[", "damaged"),
        ("vocab.bpe", "#version: 0.2\na b c\n", "damaged"),
        ("vocab.bpe", "#version: 0.2\nz z\n", "makes 'zz'"),
    ],
)
def test_a_tokenizer_of_other_files_is_refused(tmp_path, file, content, says):
    write_tokenizer(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=says):
        openai.load_tokenizer(tmp_path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path):
    write_tokenizer(tmp_path)
    with pytest.raises(UserError, match="the model 300 tokens"):
        openai.load_tokenizer(tmp_path, d_vocab=300)


CONFIG = {"rms_norm": True, "sink": True, "tied_unembed": False, "afrac": 0.5, "block_size": 16, "vocab_size": 20}
PLAIN = {**CONFIG, "sink": False, "afrac": None}
PAIRS = PruneConfig(validation_pairs=8, fixed_pairs=8)


@pytest.fixture(params=[CONFIG, PLAIN], ids=["sparse", "plain"])
def released(tmp_path, request):
    """A released model with means, and a circuit file's content."""
    write(tmp_path / "model", request.param)
    model = openai.load(tmp_path / "model")
    model.means = mean_activations(model, [torch.randint(0, 20, (16, 16), generator=torch.Generator().manual_seed(1))])
    draw = torch.Generator().manual_seed(2)
    nodes = {site: torch.randperm(size, generator=draw)[:3] for site, size in node_sites(model.config).items()}
    nodes["1.attn.q"] = torch.tensor([], dtype=torch.long)
    return model, {"circuit_data": {**nodes, "prune_config": {"k": 3}}, "importances": {"loss": 0.1}}


@pytest.mark.parametrize("source", ["model", "file", "viz"])
def test_a_released_circuit_runs_and_states_its_loss(released, tmp_path, source):
    model, content = released
    means, options = dict(model.means), {}
    if source == "viz":
        content["mean_activations"] = means
    if source == "file":
        torch.save(means, tmp_path / "means.pt")
        options["means"] = tmp_path / "means.pt"
    if source != "model":
        model.means = {}
    torch.save(content, tmp_path / "viz_data.pt")
    circuit = openai.load_circuit(tmp_path / "viz_data.pt", model, PlantedTask(), config=PAIRS, **options)
    kept = {site: index.sort().values for site, index in content["circuit_data"].items() if site[0].isdigit()}

    def ablate(site):
        keep = torch.zeros(len(means[site]))
        keep[kept[site]] = 1
        return lambda x: keep * x + (1 - keep) * means[site]

    tokens = PlantedTask().pairs("validation", 8).flat
    expected = model.run(tokens, edit={site: ablate(site) for site in node_sites(model.config)})[0]
    torch.testing.assert_close(model.run(tokens, edit=circuit.edits())[0], expected)
    stated = PlantedTask().pairs("validation", 8).loss(expected)
    assert circuit.losses["nodes_ablated"] == pytest.approx(stated.item(), abs=1e-6)
    if not model.config.sink:
        torch.testing.assert_close(circuit(tokens), expected)
    moved = means["0.attn.y" if model.config.sink else "0.attn.v"]
    torch.testing.assert_close(circuit.ablation_values["0.attn.y"], moved)
    assert len(circuit.nodes) == sum(map(len, kept.values())) and "1.attn.v.head" in " ".join(circuit.nodes)
    assert circuit.edges == edges_between(model, kept)
    circuit.save(tmp_path / "one.circuit")
    again = load_circuit(tmp_path / "one.circuit", model)
    assert again.loss(PlantedTask()) == pytest.approx(circuit.losses["circuit"], abs=1e-6)
    assert circuit.losses["circuit"] <= circuit.losses["circuit_uncalibrated"] + 0.1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("circuit_data"), "no circuit_data"),
        (lambda c: c["circuit_data"].update({"7.mlp.act_in": torch.tensor([1])}), "no site of this model"),
        (lambda c: c["circuit_data"].update({"0.mlp.act_in": torch.tensor([12])}), "outside its width 12"),
        (lambda c: c["circuit_data"].update({"0.mlp.act_in": torch.ones(12).bool()}), "outside its width 12"),
        (lambda c: c["circuit_data"].update({"0.mlp.act_in": ["a"]}), "keeps no indices at '0.mlp.act_in'"),
        (lambda c: c.update(circuit_data={}), "keeps no node"),
        (lambda c: c.update(means={"0.attn.act_in": torch.zeros(3)}), "12 finite means for 0.attn.act_in"),
    ],
)
def test_a_circuit_of_another_model_is_refused(released, tmp_path, change, says):
    model, content = released
    change(content)
    torch.save(content, tmp_path / "viz_data.pt")
    with pytest.raises(UserError, match=says):
        openai.load_circuit(tmp_path / "viz_data.pt", model, PlantedTask(), config=PAIRS)


def test_a_circuit_that_keeps_channels_of_the_final_stream_runs_and_is_verified(released, tmp_path, caplog):
    model, content = released
    content["circuit_data"]["final_resid"] = torch.tensor([3, 0])
    tokens = PlantedTask().pairs("validation", 8).flat
    final = {"final_resid": torch.linspace(-1, 1, 12)}
    torch.save({**content, "means": {**model.means, **final}}, tmp_path / "viz_data.pt")
    circuit = openai.load_circuit(tmp_path / "viz_data.pt", model, PlantedTask(), config=PAIRS)
    assert circuit.nodes[-2:] == ("final_resid.0", "final_resid.3")
    recorded = circuit.run(tokens, record=["final_resid"])[1]["final_resid"]
    off = [i for i in range(12) if i not in (0, 3)]
    assert torch.equal(recorded[..., off], final["final_resid"][off].expand(*tokens.shape, 10))
    assert recorded[..., 3].std() > 0
    circuit.save(tmp_path / "one.circuit")
    again = load_circuit(tmp_path / "one.circuit", model)
    assert again.loss(PlantedTask()) == pytest.approx(circuit.losses["circuit"], abs=1e-6)
    card = verify(again, PlantedTask(), n_random=2, n_pairs=8)
    assert card.n_nodes == len(circuit.nodes) and len(card.checks) == 5
    assert all(len(control.kept["final_resid"]) == 2 for control in random_circuits(again, 2))
    zeroed = openai.load_circuit(tmp_path / "viz_data.pt", model, PlantedTask(), config=PAIRS, ablation="zero")
    assert not zeroed.ablation_values["final_resid"].any() and zeroed.nodes == circuit.nodes

    torch.save(content, tmp_path / "viz_data.pt")  # the model's own means know nothing of the final stream
    circuit = openai.load_circuit(tmp_path / "viz_data.pt", model, PlantedTask(), config=PAIRS)
    assert "keeps 2 channels of final_resid, for which there are no means" in caplog.text
    assert "final_resid" not in " ".join((*circuit.nodes, *circuit.ablation_values))


class Store:
    """A local server with the release's layout that notes what is asked and can break off."""

    def __init__(self, root: Path) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.break_after: int | None = None
        self.says_lengths = True
        store = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                store.asked.append((self.path, wanted))
                file = root / self.path.lstrip("/")
                if not file.is_file():
                    return self.send_error(404)
                data = file.read_bytes()
                start = int(re.findall(r"\d+", wanted)[0]) if wanted else 0
                if start >= len(data):
                    return self.send_error(416)
                self.send_response(206 if wanted else 200)
                if store.says_lengths:
                    self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                self.wfile.write(data[start:][: store.break_after])

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def store(tmp_path):
    write(tmp_path / "store" / "models" / "csp_tiny", CONFIG)
    write_tokenizer(tmp_path / "store" / "tinypython")
    store = Store(tmp_path / "store")
    threading.Thread(target=store.server.serve_forever, args=(0.01,), daemon=True).start()
    yield store
    store.server.shutdown()
    store.server.server_close()


def test_a_download_goes_on_where_it_was_cut_off_and_is_whole(store, tmp_path):
    source, target = tmp_path / "store" / "models" / "csp_tiny", tmp_path / "here"
    store.break_after = 1000
    with pytest.raises(UserError, match=r"gave 1,000 of .* bytes; run it again"):
        openai.download("csp_tiny", target, store=store.url)
    assert not (target / "final_model.pt").exists()
    store.break_after, seen = None, []
    openai.download("csp_tiny", target, store=store.url, progress=lambda *step: seen.append(step))
    assert ("/models/csp_tiny/final_model.pt", "bytes=1000-") in store.asked
    size = (source / "final_model.pt").stat().st_size
    assert ("final_model.pt", size, size) in seen
    for file in ("final_model.pt", "beeg_config.json"):
        assert (target / file).read_bytes() == (source / file).read_bytes()
    store.asked.clear()
    openai.download("csp_tiny", target, store=store.url)
    assert not store.asked
    assert sorted(path.name for path in target.iterdir()) == [
        "beeg_config.json",
        "encoder.json",
        "final_model.pt",
        "vocab.bpe",
    ]


def test_a_store_that_does_not_tell_lengths_is_refused(store, tmp_path):
    store.says_lengths = False
    with pytest.raises(UserError, match=r"beeg_config.json \(the store does not tell its length"):
        openai.download("csp_tiny", tmp_path / "here", store=store.url)
    assert not (tmp_path / "here").exists()


def test_a_part_that_is_too_long_is_fetched_anew(store, tmp_path):
    target = tmp_path / "here"
    target.mkdir()
    (target / "beeg_config.json.part").write_bytes(bytes(100_000))
    openai.download("csp_tiny", target, store=store.url)
    assert json.loads((target / "beeg_config.json").read_text()) == {**SMALL, **CONFIG}


def test_no_such_model_and_no_network_are_one_line(store, tmp_path):
    with pytest.raises(UserError, match=r"answers 404 .*check the model's name"):
        openai.download("csp_other", tmp_path / "here", store=store.url)
    with pytest.raises(UserError, match=r"neither a directory nor the name"):
        openai.download("../x", tmp_path / "here", store=store.url)
    with pytest.raises(UserError, match="give a directory that holds the model"):
        openai.download("csp_tiny", tmp_path / "here", store="http://127.0.0.1:9")


def test_a_tokenizer_with_an_id_twice_is_refused(tmp_path):
    encoder = write_tokenizer(tmp_path)
    (tmp_path / "encoder.json").write_text(json.dumps({**encoder, "def": encoder["de"]}))
    with pytest.raises(UserError, match="some perhaps twice"):
        openai.load_tokenizer(tmp_path)


def test_a_piece_that_is_a_token_is_one_however_it_is_joined(tmp_path):
    encoder = write_tokenizer(tmp_path)
    (tmp_path / "encoder.json").write_text(json.dumps({**encoder, "zzzz": len(encoder)}))
    assert openai.load_tokenizer(tmp_path).encode("zzzz") == [len(encoder)]


def test_losses_are_those_of_model_and_circuit(released, tmp_path):
    model, content = released
    torch.save(content, tmp_path / "viz_data.pt")
    config = replace(PAIRS, target=0.4)
    circuit = openai.load_circuit(tmp_path / "viz_data.pt", model, PlantedTask(), config=config)
    pairs, fixed = PlantedTask().pairs("validation", 8), PlantedTask().pairs("train", 8, seed=1_000_000)
    assert circuit.losses["unpruned"] == pytest.approx(pairs.loss(model(pairs.flat)).item(), abs=1e-6)
    assert (circuit.scale, circuit.shift) == tuple(map(float, calibrate(fixed.differences(circuit(fixed.flat)))))
    assert circuit.target == 0.4


def test_means_that_are_no_numbers_are_refused_and_zero_ablation_needs_none(released, tmp_path):
    model, content = released
    torch.save({**content, "means": model.means}, tmp_path / "viz_data.pt")
    zero = openai.load_circuit(tmp_path / "viz_data.pt", model, PlantedTask(), config=PAIRS, ablation="zero")
    assert not any(values.any() for values in zero.ablation_values.values())
    means = {**model.means, "0.attn.act_in": torch.full((12,), float("nan"))}
    torch.save({**content, "means": means}, tmp_path / "viz_data.pt")
    with pytest.raises(UserError, match="has no 12 finite means for 0.attn.act_in"):
        openai.load_circuit(tmp_path / "viz_data.pt", model, PlantedTask(), config=PAIRS)


def test_a_store_that_sends_files_from_their_beginning_is_taken_at_its_word(store, tmp_path, monkeypatch):
    source, target = tmp_path / "store" / "models" / "csp_tiny", tmp_path / "here"
    target.mkdir()
    (target / "final_model.pt.part").write_bytes(b"x" * 100)
    module = importlib.import_module("openwork.interop.openai.download")
    opened = module._open
    monkeypatch.setattr(module, "_open", lambda url, start: opened(url, 0))
    openai.download("csp_tiny", target, store=store.url)
    assert (target / "final_model.pt").read_bytes() == (source / "final_model.pt").read_bytes()


def test_a_name_of_dots_is_none(tmp_path):
    with pytest.raises(UserError, match="neither a directory nor the name"):
        openai.download("..", tmp_path, store="http://127.0.0.1:9")
