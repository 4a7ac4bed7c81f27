from __future__ import annotations

import errno
import importlib
import json
import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from openwork.corpus import Corpus, Tokenizer, build_corpus, open_corpus
from openwork.corpus.shards import ShardWriter, _draw, _manifest_hash, save_manifest
from openwork.errors import UserError

build_module = importlib.import_module("openwork.corpus.build")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    for i in range(30):
        (directory / f"f{i:02d}.py").write_text(f"value_{i} = {i}\nprint('{i}')\n")
    (directory / "again.py").write_text("value_3 = 3\nprint('3')\n")
    (directory / "empty.py").write_text("\n")
    (directory / "binary.py").write_bytes(b"a\0b")
    (directory / "latin.py").write_bytes("é = 1".encode("latin-1"))
    return directory


def build(source: Path | str, out: Path, **options) -> Corpus:
    d_vocab = None if "tokenizer" in options else 270
    return build_corpus(str(source), out, **{"d_vocab": d_vocab, "validation_fraction": 0.3, **options})


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
    assert sorted(train + validation) == sorted({p.read_text() for p in source.glob("f*.py")})
    assert train and validation
    m = corpus.manifest
    assert (m.duplicates, m.empty, m.skipped) == (1, 1, 2)
    assert sorted(note.split(":")[0] for note in m.skipped_names) == ["binary.py", "latin.py"]
    assert (m.train.documents, m.validation.documents) == (len(train), len(validation))
    assert m.train.tokens == len(corpus.train)
    assert m.train.bytes == sum(len(text.encode()) for text in train)


def test_the_same_request_gives_the_same_bytes_and_another_seed_another_split(source, tmp_path):
    a, b = build(source, tmp_path / "a"), build(source, tmp_path / "b")
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert a.manifest.hash == b.manifest.hash
    assert documents(build(source, tmp_path / "c", seed=1), "train") != documents(a, "train")


def test_a_document_stays_on_its_side_when_others_come(source, tmp_path):
    """The split is drawn from each text alone, so only as many cross over as the share of validation moves."""
    before = set(documents(build(source, tmp_path / "a"), "validation"))
    for i in range(30, 60):
        (source / f"f{i}.py").write_text(f"value_{i} = {i}\nprint('{i}')\n")
    corpus = build(source, tmp_path / "b")
    assert before == {text for text in documents(corpus, "validation") if int(text.split("_")[1].split()[0]) < 30}


@pytest.mark.parametrize("fraction", [0.3, 1e-9])
def test_the_tokenizer_never_sees_validation_text(source, tmp_path, monkeypatch, fraction):
    """Nor that of the one document that is for validation however small its fraction."""
    seen: list[str] = []
    learn = Tokenizer.train
    monkeypatch.setattr(Tokenizer, "train", lambda texts, d_vocab: learn(seen.extend(texts) or list(seen), d_vocab))
    corpus = build(source, tmp_path / "c", validation_fraction=fraction)
    assert corpus.manifest.validation.documents >= 1
    assert sorted(seen) == sorted(documents(corpus, "train"))


def test_a_corpus_that_is_there_is_opened_and_another_request_refused(source, tmp_path):
    build(source, tmp_path / "c")
    before = (tmp_path / "c" / "manifest.json").stat().st_mtime_ns
    build(source, tmp_path / "c")
    assert (tmp_path / "c" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="with seed 0, not 5; choose another place"):
        build(source, tmp_path / "c", seed=5)
    Tokenizer.train(["abc " * 50], 258).save(tmp_path / "t.json")
    with pytest.raises(UserError, match="with d_vocab 270, not 25"):
        build(source, tmp_path / "c", tokenizer=tmp_path / "t.json")


def test_overwrite_reads_the_text_again(source, tmp_path):
    build(source, tmp_path / "c")
    (source / "f00.py").write_text("changed = True\n")
    assert "changed = True\n" not in "".join(documents(build(source, tmp_path / "c"), "train"))
    corpus = build(source, tmp_path / "c", overwrite=True)
    assert "changed = True\n" in documents(corpus, "train") + documents(corpus, "validation")


def test_other_files_are_never_replaced(source, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("other", "file"):
        for overwrite in (False, True):
            with pytest.raises(UserError, match="is there and is no corpus; choose another directory"):
                build(source, tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "other" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "x"


def test_a_given_tokenizer_is_used(source, tmp_path):
    Tokenizer.train(["abc " * 50], 258).save(tmp_path / "t.json")
    corpus = build(source, tmp_path / "c", tokenizer=tmp_path / "t.json")
    assert corpus.tokenizer.hash == Tokenizer.load(tmp_path / "t.json").hash
    build(source, tmp_path / "c", tokenizer=tmp_path / "t.json")


def test_a_mixture_keeps_its_shares(source, tmp_path):
    corpus = build(f"{source}:0.25,idioms:0.75", tmp_path / "c")
    texts = documents(corpus, "train") + documents(corpus, "validation")
    own = sum(len(corpus.tokenizer.encode(text)) + 1 for text in texts if text.startswith("value_"))
    assert own / (len(corpus.train) + len(corpus.validation)) == pytest.approx(0.25, abs=0.03)
    assert {part.source: part.tokens for part in corpus.manifest.parts}[str(source)] == own
    assert sum(text.startswith("value_") for text in texts) == 30  # as long as the shorter part allows


def test_weights_of_a_mixture_need_not_add_up_to_one(source, tmp_path):
    one, other = (
        build(f"{source}:{a},idioms:{b}", tmp_path / a, max_tokens=1000) for a, b in (("0.25", "0.75"), ("1", "3"))
    )
    assert one.manifest.parts == other.manifest.parts
    assert one.manifest.train.shards == other.manifest.train.shards


def test_an_endless_source_needs_an_end(tmp_path):
    with pytest.raises(UserError, match="has no end; give max_tokens"):
        build("idioms", tmp_path / "c")
    corpus = build("idioms", tmp_path / "c", max_tokens=20_000)
    assert 20_000 <= len(corpus.train) + len(corpus.validation) < 22_000


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "no corpus source"),
        (lambda p: p.mkdir(), "has no text; check the path and the extension"),
        (lambda p: (p.mkdir(), (p / "x.py").write_text(" \n")), r"has no text \(1 empty\); check"),
        (lambda p: (p.mkdir(), (p / "x.py").write_bytes(b"\0")), r"\(1 passed over, first x.py: not text: binary"),
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
        ({"validation_fraction": -0.1}, "validation_fraction is -0.1; it must be"),
        ({"validation_fraction": 1}, "validation_fraction is 1; it must be"),
        ({"validation_fraction": float("nan")}, "validation_fraction is nan; it must be"),
        ({"d_vocab": 10}, "d_vocab is 10; a byte-level vocabulary needs at least 257"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"tokenizer": "nowhere.json"}, "cannot read the tokenizer nowhere.json"),
    ],
)
def test_settings_without_sense_are_refused(source, tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        build(source, tmp_path / "c", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("mixture", "says"),
    [
        ("{}:0,idioms:1", "has the weight 0; weights are numbers greater than 0"),
        ("{}:1e999,idioms:1", "weights are numbers greater than 0"),
        ("{}:0.5,idioms", "with and without a weight"),
        ("{}:0.5,{}:0.5", "names one of its parts twice"),
        ("{},idioms", "has a part without end; give each a weight"),
        ("{}:1,nowhere:1", "no corpus source 'nowhere'"),
    ],
)
def test_mixtures_without_sense_are_refused(source, tmp_path, mixture, says):
    with pytest.raises(UserError, match=says):
        build(mixture.format(source, source), tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_no_validation_can_be_asked_for(source, tmp_path):
    corpus = build(source, tmp_path / "c", validation_fraction=0)
    assert len(corpus.validation) == 0 and len(documents(corpus, "train")) == 30
    with pytest.raises(UserError, match="has no validation tokens; build it from more than one document"):
        corpus.batch("validation", 0, 1, 4, 0)


def test_a_text_may_hold_the_end_of_text_mark_and_any_character(tmp_path):
    (tmp_path / "s").mkdir()
    texts = ["a <|endoftext|> b\n", "ünï\u2028\U0001f600 \x07\n", "x"]
    for i, text in enumerate(texts):
        (tmp_path / "s" / f"{i}.py").write_text(text, encoding="utf-8", newline="")
    corpus = build(tmp_path / "s", tmp_path / "c")
    assert sorted(documents(corpus, "train") + documents(corpus, "validation")) == sorted(texts)


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
        (lambda p: _flip(p / "manifest.json"), "manifest.* was altered|is damaged"),
        (lambda p: (p / "tokenizer.json").unlink(), "cannot read the tokenizer"),
        (lambda p: (p / "manifest.json").unlink(), "is no corpus"),
        (lambda p: (p / "manifest.json").write_text("{"), "is damaged"),
        (lambda p: (p / "manifest.json").write_text(json.dumps({"kind": "corpus"})), "lacks something"),
        (lambda p: save_manifest(p, replace(open_corpus(p).manifest, dtype="half")), "has dtype 'half', not uint16"),
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


def test_seeds_below_zero_and_huge_ones_draw_as_well(source, tmp_path):
    corpus = build(source, tmp_path / "c", seed=-1)
    draws = [tuple(corpus.batch("train", 0, 2, 7, seed).flatten().tolist()) for seed in (-1, 0, 2**63 + 5)]
    assert len(set(draws)) == 3


def test_windows_reach_across_shards(source, tmp_path, monkeypatch):
    whole = build(source, tmp_path / "a")
    monkeypatch.setattr(build_module, "ShardWriter", partial(ShardWriter, shard_tokens=40))
    parts = build(source, tmp_path / "b")
    assert len(parts.manifest.train.shards) > 3
    expected = whole.train.window(0, len(whole.train))
    assert np.array_equal(parts.train.window(0, len(parts.train)), expected)
    for start in range(0, len(expected) - 90, 17):
        assert np.array_equal(parts.train.window(start, 90), expected[start : start + 90])


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


def test_a_corpus_that_a_killed_build_had_moved_aside_comes_back(source, tmp_path):
    old = build(source, tmp_path / "c").manifest.hash
    (tmp_path / "c").rename(tmp_path / ".c.old")
    with pytest.raises(UserError, match="seed 0, not 1"):
        build(source, tmp_path / "c", seed=1)
    assert open_corpus(tmp_path / "c").manifest.hash == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "source"]


def test_a_second_build_does_not_write_where_one_goes_on(source, tmp_path):
    alone = build(source, tmp_path / "alone").manifest

    def begin_another(stage, done, total):
        if stage == "write" and done == total:
            with pytest.raises(UserError, match=r"another run writes to .*\.c\.part; wait for the corpus .*c, or"):
                build(source, tmp_path / "c", seed=1)

    assert build(source, tmp_path / "c", progress=begin_another).manifest == alone
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone", "c", "source"]


def test_what_a_killed_build_left_is_not_in_the_corpus(source, tmp_path):
    (tmp_path / ".c.part").mkdir()
    (tmp_path / ".c.part" / "part-7.ids").write_bytes(b"\0")
    build(source, tmp_path / "c")
    assert not (tmp_path / "c" / "part-7.ids").exists() and not (tmp_path / ".c.part").exists()


def test_a_build_stopped_between_the_two_renames_leaves_the_old_corpus(source, tmp_path, monkeypatch):
    old = build(source, tmp_path / "c").manifest.hash
    (source / "more.py").write_text("more = 1\n")
    move = Path.replace

    def stop(path, target):
        if path.name == ".c.part":
            raise KeyboardInterrupt
        return move(path, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        build(source, tmp_path / "c", overwrite=True)
    assert open_corpus(tmp_path / "c").manifest.hash == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "source"]


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


def test_what_was_passed_over_stands_in_the_manifest_and_the_summary(source, tmp_path):
    (source / "binary.py").write_bytes(b"\0")
    (source / "latin.py").write_bytes(b"\xe9")
    for m in (build(source, tmp_path / "c").manifest, open_corpus(tmp_path / "c").manifest):
        assert {line.split(":")[0] for line in m.skipped_names} == {"binary.py", "latin.py"}
        assert {"skipped": 2, "duplicates": 1, "empty": 1}.items() <= m.summary().items()


def test_all_that_training_reads_decides_the_hash(source, tmp_path):
    manifest = build(source, tmp_path / "c").manifest
    shard = replace(manifest.validation.shards[0], sha256="0" * 64)
    other = replace(manifest, validation=replace(manifest.validation, shards=(shard,)))
    assert len({manifest.hash, other.hash, replace(manifest, tokenizer_hash="0" * 64).hash}) == 3


def test_every_step_draws_places_of_its_own_the_same_for_ever():
    drawn = [place for step in range(50) for place in _draw(3, "train", step, 16, 2**40)]
    assert len(set(drawn)) == len(drawn) == 800
    assert _draw(0, "train", 5, 2, 2**40) == [1031369762680, 773552157152]  # a run of an older version can go on


@pytest.mark.parametrize(
    ("values", "says"),
    [({"format_version": 99}, "format newer than 1; update"), ({"kind": "circus"}, "is no corpus manifest")],
)
def test_a_manifest_of_another_kind_or_a_newer_format_is_refused(source, tmp_path, values, says):
    build(source, tmp_path / "c")
    path = tmp_path / "c" / "manifest.json"
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({**content, "sha256": _manifest_hash(content)}))
    with pytest.raises(UserError, match=says):
        open_corpus(tmp_path / "c")


def test_ids_beyond_sixteen_bits_are_kept(source, tmp_path):
    Tokenizer.train(["abc " * 50], 258).save(tmp_path / "t.json")
    content = json.loads((tmp_path / "t.json").read_text())
    content["added_tokens"][0]["id"] = content["model"]["vocab"]["<|endoftext|>"] = 1 << 16
    (tmp_path / "t.json").write_text(json.dumps(content))
    corpus = build(source, tmp_path / "c", tokenizer=tmp_path / "t.json")
    assert (corpus.manifest.dtype, corpus.tokenizer.end_of_text) == ("uint32", 1 << 16)
    assert len(documents(corpus, "train")) == corpus.manifest.train.documents


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_there_is_a_document_on_either_side(source, tmp_path, fraction):
    m = build(source, tmp_path / "c", validation_fraction=fraction).manifest
    assert sorted((m.train.documents, m.validation.documents)) == [1, 29]


def test_a_text_in_two_parts_comes_once(source, tmp_path):
    (tmp_path / "more").mkdir()
    for i in range(20, 40):
        (tmp_path / "more" / f"{i}.py").write_text(f"value_{i} = {i}\nprint('{i}')\n")
    corpus = build(f"{source}:3,{tmp_path / 'more'}:1", tmp_path / "c")
    texts = documents(corpus, "train") + documents(corpus, "validation")
    assert len(texts) == len(set(texts)) and corpus.manifest.duplicates == 11


def test_rows_that_no_file_could_hold_are_passed_over(tmp_path):
    rows = [{"text": "one\n"}, {"text": "a\0b"}, {"text": "\ud800"}, {"text": "two\n"}]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = build(tmp_path / "d.jsonl", tmp_path / "c")
    assert corpus.manifest.skipped_names == (
        "d.jsonl:2: not text: NUL characters",
        "d.jsonl:3: not text: half a surrogate pair",
    )


def test_a_link_to_a_corpus_stays_one(source, tmp_path):
    build(source, tmp_path / "c")
    (tmp_path / "link").symlink_to("c")
    (source / "f00.py").write_text("changed = True\n")
    corpus = build(source, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and open_corpus(tmp_path / "c").manifest == corpus.manifest


def test_a_corpus_of_another_tokenizer_is_not_opened_for_this_one(source, tmp_path):
    for name, text in (("a", "abc "), ("b", "xyz ")):
        Tokenizer.train([text * 50], 258).save(tmp_path / f"{name}.json")
    build(source, tmp_path / "c", tokenizer=tmp_path / "a.json")
    with pytest.raises(UserError, match="holds a corpus with tokenizer_hash"):
        build(source, tmp_path / "c", tokenizer=tmp_path / "b.json")


# timeout: an endless part that is read first is read for ever
@pytest.mark.timeout(60)
@pytest.mark.slow
def test_the_endless_part_may_be_named_first(source, tmp_path):
    one, other = (
        build(mix, tmp_path / f"c{i}") for i, mix in enumerate((f"idioms:3,{source}:1", f"{source}:1,idioms:3"))
    )
    assert one.manifest.train.shards == other.manifest.train.shards


def test_a_path_with_commas_and_colons_is_one_source(source, tmp_path):
    source.rename(tmp_path / "a,b:1")
    assert build(tmp_path / "a,b:1", tmp_path / "c").manifest.parts[0].documents == 30
