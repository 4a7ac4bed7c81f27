from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from openwork.corpus import Corpus, Tokenizer, build_corpus, open_corpus
from openwork.corpus.shards import ShardWriter
from openwork.errors import UserError

build_module = sys.modules[build_corpus.__module__]


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
    assert (m.empty, m.duplicates, m.skipped, m.skipped_names) == (1, 1, 0, ())
    assert (m.train.documents, m.validation.documents) == (len(train), len(validation))
    assert m.train.tokens == len(corpus.train)
    assert m.train.bytes == sum(len(text.encode()) for text in train)


def test_what_was_passed_over_stands_in_the_manifest_and_the_summary(source, tmp_path):
    (source / "binary.py").write_bytes(b"\0")
    (source / "latin.py").write_bytes(b"\xe9")
    for m in (build(source, tmp_path / "c").manifest, open_corpus(tmp_path / "c").manifest):
        assert m.skipped == 2 and {line.split(":")[0] for line in m.skipped_names} == {"binary.py", "latin.py"}
        assert {"skipped": 2, "duplicates": 1, "empty": 1}.items() <= m.summary().items()


def test_the_same_text_and_settings_give_the_same_bytes(source, tmp_path):
    build(source, tmp_path / "a")
    shutil.copytree(source, tmp_path / "elsewhere" / "source")
    build(source, tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    moved = build(tmp_path / "elsewhere" / "source", tmp_path / "c")
    assert moved.manifest.hash == open_corpus(tmp_path / "a").manifest.hash


def test_a_document_is_on_the_same_side_whatever_stands_beside_it(source, tmp_path):
    before = set(documents(build(source, tmp_path / "a", tokenizer=given_tokenizer(tmp_path)), "validation"))
    (source / "new.py").write_text("something = 'new'\n")
    (source / "f01.py").unlink()
    after = build(source, tmp_path / "b", tokenizer=given_tokenizer(tmp_path))
    assert before - {"value_1 = 1\nprint('1')\n"} <= set(documents(after, "validation"))


def test_another_seed_gives_another_split(source, tmp_path):
    first, other = build(source, tmp_path / "a"), build(source, tmp_path / "b", seed=1)
    assert set(documents(first, "train")) != set(documents(other, "train"))
    assert first.manifest.hash != other.manifest.hash


def test_text_that_looks_like_the_end_of_text_does_not_end_it(source, tmp_path):
    (source / "trap.py").write_text("x = '<|endoftext|>'\n")
    corpus = build(source, tmp_path / "c")
    assert "x = '<|endoftext|>'\n" in documents(corpus, "train") + documents(corpus, "validation")


def test_a_corpus_that_is_there_is_opened_and_another_request_refused(source, tmp_path):
    build(source, tmp_path / "c")
    before = (tmp_path / "c" / "manifest.json").stat().st_mtime_ns
    build(source, tmp_path / "c")
    assert (tmp_path / "c" / "manifest.json").stat().st_mtime_ns == before
    for options, says in (
        ({"seed": 5}, "with seed 0, not 5"),
        ({"d_vocab": 280}, "with d_vocab 270, not 280"),
        ({"tokenizer": given_tokenizer(tmp_path)}, "holds a corpus with"),
    ):
        with pytest.raises(UserError, match=says):
            build(source, tmp_path / "c", **options)
    (source / "more.py").write_text("more = 1\n")
    assert build(source, tmp_path / "c", overwrite=True).manifest.train.documents + 9 > 21


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_is_no_corpus_is_never_replaced(source, tmp_path, kind):
    out = tmp_path / "other"
    thesis = out / "thesis.txt" if kind == "directory" else out
    thesis.parent.mkdir(exist_ok=True)
    thesis.write_text("x")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is there and is no corpus"):
            build(source, out, overwrite=overwrite)
    assert thesis.read_text() == "x"


def given_tokenizer(place: Path) -> Path:
    Tokenizer.train(["abc " * 50], 258).save(place / "t.json")
    return place / "t.json"


def test_a_given_tokenizer_is_used(source, tmp_path):
    given_tokenizer(tmp_path)
    corpus = build(source, tmp_path / "c", tokenizer=tmp_path / "t.json")
    assert corpus.tokenizer.hash == Tokenizer.load(tmp_path / "t.json").hash
    build(source, tmp_path / "c", tokenizer=tmp_path / "t.json")


def test_a_mixture_keeps_its_shares(source, tmp_path):
    corpus = build(f"{source}:0.25,idioms:0.75", tmp_path / "c")
    texts = documents(corpus, "train") + documents(corpus, "validation")
    own = sum(len(text) for text in texts if text.startswith("value_"))
    assert own / sum(map(len, texts)) == pytest.approx(0.25, abs=0.1)


def test_an_endless_source_needs_an_end(tmp_path):
    with pytest.raises(UserError, match="has no end; give max_tokens"):
        build("idioms", tmp_path / "c")
    corpus = build("idioms", tmp_path / "c", max_tokens=20_000)
    assert 20_000 <= len(corpus.train) + len(corpus.validation) < 200_000


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no corpus source"),
        (lambda p: p.mkdir(), "has no text; check the path and the extension"),
        (lambda p: (p.mkdir(), (p / "x.txt").write_text("x")), "has no text; check the path and the extension"),
        (lambda p: (p.mkdir(), (p / "x.py").write_text(" \n")), r"has no text \(1 empty\); check"),
        (lambda p: (p.mkdir(), (p / "x.py").write_bytes(b"\0")), r"\(1 passed over, first x.py: .*NUL bytes\); check"),
        (lambda p: p.write_bytes(b"\x89PNG\0\xff"), r"\(1 passed over, first s: .*NUL bytes\); check"),
    ],
)
def test_an_empty_or_missing_source_is_one_clear_line_and_leaves_nothing(tmp_path, make, says):
    make(tmp_path / "s")
    with pytest.raises(UserError, match=says):
        build(tmp_path / "s", tmp_path / "c")
    assert not (tmp_path / "c").exists() and not list(tmp_path.glob(".c*"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1; it must"),
        ({"validation_fraction": 1}, "validation_fraction is 1; it must"),
        ({"validation_fraction": float("nan")}, "validation_fraction is nan; it must"),
        ({"d_vocab": 10}, "d_vocab is 10; a byte-level vocabulary needs at least 257"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"tokenizer": "missing.json"}, "cannot read the tokenizer missing.json"),
    ],
)
def test_settings_without_sense_are_refused_and_leave_nothing(source, tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        build(source, tmp_path / "c", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("mixture", "says"),
    [
        ("{}:0,idioms:1", "has the weight 0; weights are numbers greater than 0"),
        ("{}:1e999,idioms:1", "weights are numbers greater than 0"),
        ("{}:0.5,idioms", "has parts with and without a weight"),
        ("{}:0.5,{}:0.5", "names one of its parts twice"),
        ("idioms,{}", "has a part without end; give each a weight"),
        ("{}:0.5,/no/such/place:0.5", "there is no corpus source '/no/such/place'"),
        ("{}:0.5,,", "names one of its parts twice|no corpus source ''"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_refused(source, tmp_path, mixture, says):
    with pytest.raises(UserError, match=says):
        build(mixture.replace("{}", str(source)), tmp_path / "c")


def test_no_validation_is_possible_and_a_validation_has_a_document_at_least(source, tmp_path):
    assert len(build(source, tmp_path / "a", validation_fraction=0).validation) == 0
    assert build(source, tmp_path / "b", validation_fraction=1e-9).manifest.validation.documents == 1


def test_a_full_disk_is_one_line_and_leaves_nothing(source, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        build(source, tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


def test_a_build_that_was_stopped_leaves_the_old_corpus_and_nothing_else(source, tmp_path):
    old = build(source, tmp_path / "c").manifest.hash
    (source / "more.py").write_text("more = 1\n")

    def stop(stage, done, total):
        if stage == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path / "c", overwrite=True, progress=stop)
    assert open_corpus(tmp_path / "c").manifest.hash == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "source"]


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
        (lambda p: (p / "manifest.json").write_text("[1]"), "holds no JSON object"),
        (lambda p: _replace(p / "manifest.json", '"seed": 0', '"seed": 7'), "was altered: its checksum differs"),
        (lambda p: (p / "tokenizer.json").write_text("{"), "tokenizer .* is damaged"),
        (lambda p: (p / "tokenizer.json").unlink(), "cannot read the tokenizer"),
        (lambda p: Tokenizer.train(["zz " * 9], 258).save(p / "tokenizer.json"), "is not the tokenizer of this corpus"),
    ],
)
def test_a_spoilt_corpus_is_refused(source, tmp_path, spoil, says):
    build(source, tmp_path / "c")
    spoil(tmp_path / "c")
    with pytest.raises(UserError, match=says) as caught:
        open_corpus(tmp_path / "c")
    assert "\n" not in str(caught.value)


def test_a_manifest_with_any_flipped_bit_is_refused_or_says_the_same(source, tmp_path):
    corpus = build(source, tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 5):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        with suppress(UserError):
            assert open_corpus(tmp_path / "c").manifest == corpus.manifest  # white space


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


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
    monkeypatch.setattr(build_module, "ShardWriter", partial(ShardWriter, shard_tokens=40))
    parts = build(source, tmp_path / "b")
    assert len(parts.manifest.train.shards) > 3
    expected = whole.train.window(0, len(whole.train))
    assert np.array_equal(parts.train.window(0, len(parts.train)), expected)
    for start in range(0, len(expected) - 90, 17):
        assert np.array_equal(parts.train.window(start, 90), expected[start : start + 90])
