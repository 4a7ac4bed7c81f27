from __future__ import annotations

import pytest
import torch
from safetensors.torch import save

from openwork.artifacts import Card, Check, load_card, load_tensors, save_tensors
from openwork.errors import UserError


def test_tensors_and_header_come_back(tmp_path):
    tensors = {"a": torch.randn(3, 4), "b": torch.arange(5)}
    save_tensors(tmp_path / "x", tensors, {"note": ["ä", 1]}, "thing")
    loaded, header = load_tensors(tmp_path / "x", "thing")
    assert header["note"] == ["ä", 1]
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_the_same_content_gives_the_same_bytes(tmp_path):
    a, b = torch.randn(3), torch.arange(4)
    save_tensors(tmp_path / "0", {"a": a, "b": b}, {"x": 1, "y": 2}, "thing")
    for i in range(1, 20):  # safetensors' own order of metadata is a matter of luck
        save_tensors(tmp_path / f"{i}", {"b": b, "a": a}, {"y": 2, "x": 1}, "thing")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_file_of_another_kind_is_refused(tmp_path):
    save_tensors(tmp_path / "x", {}, {}, "means")
    with pytest.raises(UserError, match="holds a means, not a circuit"):
        load_tensors(tmp_path / "x", "circuit")


@pytest.mark.parametrize("bit", [0, 2, 5, 7])
def test_every_flipped_bit_is_refused(tmp_path, bit):
    path = tmp_path / "x"
    save_tensors(path, {"a": torch.randn(50)}, {"note": "ä" * 10, "rate": 1e-7}, "thing")
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        with pytest.raises(UserError, match="whole|altered|holds a|newer"):
            load_tensors(path, "thing")


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"kind": "thing"}', '{"kind": "thing", "format_version": "x"}', "[" * 9999]
)
def test_a_hostile_header_is_refused(tmp_path, text):
    (tmp_path / "x").write_bytes(save({}, metadata={"openwork": f"0 {text}"}))
    with pytest.raises(UserError, match="no whole thing file|was altered"):
        load_tensors(tmp_path / "x", "thing")


@pytest.mark.parametrize("length", [0, 5, 40, 300])
def test_a_truncated_file_is_refused(tmp_path, length):
    path = tmp_path / "x"
    save_tensors(path, {"a": torch.randn(50)}, {}, "thing")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match="no whole thing file"):
        load_tensors(path, "thing")


def test_a_huge_header_length_is_refused_without_reading_it(tmp_path):
    (tmp_path / "x").write_bytes((10 * 2**30).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="no whole thing file"):
        load_tensors(tmp_path / "x", "thing")


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("openwork.artifacts.FORMAT_VERSION", 99)
    save_tensors(tmp_path / "x", {}, {}, "thing")
    monkeypatch.undo()
    with pytest.raises(UserError, match="format 99"):
        load_tensors(tmp_path / "x", "thing")


def test_a_card_comes_back_and_tells_whether_it_passed(tmp_path):
    check = Check("necessity", "?", 0.9, "nats", 0.1, "random", ">= 0.5", True, {"random": [0.1]})
    card = Card("m" * 64, "task", "t" * 64, 3, 2, 0, (check,))
    card.save(tmp_path / "card.json")
    assert load_card(tmp_path / "card.json") == card
    assert card.passed
    (tmp_path / "bad.json").write_text('{"kind": "card", "format_version": 1}')
    with pytest.raises(UserError, match="lacks something"):
        load_card(tmp_path / "bad.json")
