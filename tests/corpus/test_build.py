from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from openwork.corpus import Corpus, Tokenizer, build_corpus, open_corpus
from openwork.corpus import shards as shards_module
from openwork.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    for i in range(30):
        (directory / f"f{i:02d}.py").write_text(f"value_{i} = {i}\nprint('{i}')\n")
    (directory / "again.py").write_text("value_3 = 3\nprint('3')\n")
    (directory / "empty.py").write_text("\n")
    return directory


def build(source: Path | str, out: Path, **options) -> Corpus:
    return build_corpus(str(source), out, **{"d_vocab": 270, "validation_fraction": 0.3, **options})


def documents(corpus: Corpus, split: str) -> list[str]:
    """The texts of a split, read back from its ids."""
    tokens = getattr(corpus, split)
    ids = tokens.window(0, len(tokens)).tolist()
    assert ids[0] == corpus.tokenizer.end_of_text
    texts, text = [], []
    for i in [*ids[1:], corpus.tokenizer.end_of_text]:
        if i == corpus.tokenizer.end_of_text:
            texts.append(corpus.tokenizer.decode(text))
            text = []
        else:
            text.append(i)
    return texts


def test_every_document_is_in_one_split_once(source, tmp_path):
    corpus = build(source, tmp_path / "c")
    train, validation = documents(corpus, "train"), documents(corpus, "validation")
    assert sorted(train + validation) == sorted({p.read_text() for p in source.glob("*.py")} - {"\n"})
    assert train and validation
    m = corpus.manifest
    assert (m.duplicates, m.skipped, m.skipped_names) == (1, 1, ("empty.py: empty",))
    assert (m.train.documents, m.validation.documents) == (len(train), len(validation))
    assert m.train.tokens == len(corpus.train)
    assert m.train.bytes == sum(len(text.encode()) for text in train)


def test_the_same_request_gives_the_same_bytes_and_another_seed_another_split(source, tmp_path):
    a, b = build(source, tmp_path / "a"), build(source, tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert a.manifest.hash == b.manifest.hash
    assert documents(build(source, tmp_path / "c", seed=1), "train") != documents(a, "train")


def test_a_corpus_that_is_there_is_opened_and_another_request_refused(source, tmp_path):
    build(source, tmp_path / "c")
    before = (tmp_path / "c" / "manifest.json").stat().st_mtime_ns
    build(source, tmp_path / "c")
    assert (tmp_path / "c" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="with seed 0, not 5"):
        build(source, tmp_path / "c", seed=5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        build(source, tmp_path / "other")


def test_a_given_tokenizer_is_used(source, tmp_path):
    Tokenizer.train(["abc " * 50], 258).save(tmp_path / "t.json")
    corpus = build(source, tmp_path / "c", tokenizer=tmp_path / "t.json")
    assert corpus.tokenizer.hash == Tokenizer.load(tmp_path / "t.json").hash
    build(source, tmp_path / "c", tokenizer=tmp_path / "t.json")


def test_a_mixture_keeps_its_shares(source, tmp_path):
    corpus = build(f"{source}:0.25,idioms:0.75", tmp_path / "c")
    texts = documents(corpus, "train") + documents(corpus, "validation")
    own = sum(len(text) for text in texts if text.startswith("value_"))
    assert own / sum(map(len, texts)) == pytest.approx(0.25, abs=0.1)


def test_an_endless_source_needs_an_end(tmp_path):
    with pytest.raises(UserError, match="has no end; give --max-tokens"):
        build("idioms", tmp_path / "c")
    corpus = build("idioms", tmp_path / "c", max_tokens=20_000)
    assert 20_000 <= len(corpus.train) + len(corpus.validation) < 200_000


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no corpus source"),
        (lambda p: p.mkdir(), "has no text to train on; check path"),
        (lambda p: (p.mkdir(), (p / "x.py").write_bytes(b"\0")), r"\(1 passed over, the first is x.py: binary\)"),
    ],
)
def test_an_empty_or_missing_source_is_one_clear_line_and_leaves_nothing(tmp_path, make, says):
    make(tmp_path / "s")
    with pytest.raises(UserError, match=says):
        build(tmp_path / "s", tmp_path / "c")
    assert not (tmp_path / "c").exists() and not list(tmp_path.glob(".c*"))


@pytest.mark.parametrize(
    "options", [{"validation_fraction": 0}, {"validation_fraction": 1}, {"d_vocab": 10}, {"max_tokens": 0}]
)
def test_settings_without_sense_are_refused(source, tmp_path, options):
    with pytest.raises(UserError):
        build(source, tmp_path / "c", **options)
    with pytest.raises(UserError, match="weights must be greater than 0"):
        build(f"{source}:0,idioms:1", tmp_path / "c")


def test_a_full_disk_is_one_line_and_leaves_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        build(source, tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda p: (p / "train-00000.bin").write_bytes((p / "train-00000.bin").read_bytes()[:-2]),
            "should have .* bytes, but is",
        ),
        (lambda p: (p / "train-00000.bin").unlink(), "is missing"),
        (lambda p: _flip(p / "validation-00000.bin"), "was altered"),
        (lambda p: (p / "manifest.json").unlink(), "is no corpus"),
        (lambda p: (p / "manifest.json").write_text("{"), "is damaged"),
        (lambda p: (p / "manifest.json").write_text(json.dumps({"kind": "corpus"})), "lacks something"),
        (lambda p: Tokenizer.train(["zz " * 9], 258).save(p / "tokenizer.json"), "is not the tokenizer of this corpus"),
    ],
)
def test_a_spoilt_corpus_is_refused(source, tmp_path, spoil, says):
    build(source, tmp_path / "c")
    spoil(tmp_path / "c")
    with pytest.raises(UserError, match=says):
        open_corpus(tmp_path / "c")


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_batch_is_a_function_of_its_arguments(source, tmp_path):
    corpus = build(source, tmp_path / "c")
    batch = corpus.batch("train", 5, 3, 7, 0)
    assert batch.shape == (3, 8) and batch.dtype == torch.int64
    assert torch.equal(batch, open_corpus(tmp_path / "c").batch("train", 5, 3, 7, 0))
    for other in (("train", 6, 3, 7, 0), ("validation", 5, 3, 7, 0), ("train", 5, 3, 7, 1)):
        assert not torch.equal(batch, corpus.batch(*other))
    stream = corpus.train.window(0, len(corpus.train))
    windows = np.lib.stride_tricks.sliding_window_view(stream, 8)
    assert all((windows == row.numpy()).all(1).any() for row in batch)
    corpus.batch("train", 0, 1, len(corpus.train) - 1, 0)
    with pytest.raises(UserError, match="is longer than the"):
        corpus.batch("train", 0, 1, len(corpus.train), 0)


def test_windows_reach_across_shards(source, tmp_path, monkeypatch):
    whole = build(source, tmp_path / "a")
    monkeypatch.setattr(shards_module, "SHARD_TOKENS", 40)
    parts = build(source, tmp_path / "b")
    assert len(parts.manifest.train.shards) > 3
    expected = whole.train.window(0, len(whole.train))
    assert np.array_equal(parts.train.window(0, len(parts.train)), expected)
    for start in range(0, len(expected) - 90, 17):
        assert np.array_equal(parts.train.window(start, 90), expected[start : start + 90])
