from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openwork.corpus import Tokenizer
from openwork.corpus.tokenizer import PIECES
from openwork.errors import UserError

TEXT = "def f(self, x):\n    return print('one', \"two\", x[0][1]) + 12345\n\n" * 30


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT], 320)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_happen_inside_a_piece_only():
    source = "".join("total.add(value_one)  += 1234['a_b']\n\n    if([[é_1]]).add('x')\n" for _ in range(100))
    whole = Tokenizer.train([source], 600)
    assert whole.tokens(whole.encode("total.add(value_one)  += 1234['a_b']\n\n    if")) == [
        *("total", ".add", "(", "value_one", ")", "  ", "+=", " 123", "4", "['", "a_b", "']", "\n\n", "    ", "if")
    ]
    assert whole.tokens(whole.encode("([[é_1]]).add")) == ["([[", "é_", "1", "]])", ".add"]


def test_what_tasks_choose_between_are_tokens_though_the_corpus_never_has_them():
    tokens = Tokenizer.train(["x = y\nfoo = bar\n" * 10_000], 300)
    for piece in PIECES:
        assert len(tokens.encode(piece)) == 1, piece


def test_the_last_token_ends_texts_and_no_text_can_write_it(tokenizer):
    assert tokenizer.end_of_text == tokenizer.d_vocab - 1
    for text in ("a <|endoftext|> b", "<|endoftext|>"):
        assert tokenizer.end_of_text not in tokenizer.encode(text)
        assert tokenizer.end_of_text not in tokenizer.encode_many([text])[0]
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_it_has_no_more_tokens_than_asked_for_and_fewer_from_little_text():
    assert Tokenizer.train([TEXT], 270).d_vocab == 270
    assert 257 <= Tokenizer.train(["abc"], 2048).d_vocab < 300
    assert Tokenizer.train([], 2048).d_vocab == 257


def test_it_is_learnt_the_same_again_and_found_again(tokenizer, tmp_path):
    assert Tokenizer.train([TEXT], 320).json == tokenizer.json
    assert Tokenizer.train([TEXT], 270).hash != tokenizer.hash
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.hash == tokenizer.hash
    assert loaded.encode_many([TEXT, "x"]) == [tokenizer.encode(TEXT), tokenizer.encode("x")]


def test_its_hash_does_not_depend_on_how_the_file_is_laid_out(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(tokenizer.json), indent=4))
    assert Tokenizer.load(path).hash == tokenizer.hash


def test_what_is_no_tokenizer_is_refused_in_one_line(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Tokenizer.load(path)
    with pytest.raises(UserError, match="cannot read the tokenizer .* Is a directory"):
        Tokenizer.load(tmp_path)
    for content in (b"", b"{}", b"[]", b"\xff\xfe", b"not json", tokenizer.json.encode()[:-20], b"[" * 10**5):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged") as caught:
            Tokenizer.load(path)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_without_end_of_text_is_refused(tokenizer, tmp_path):
    content = json.loads(tokenizer.json)
    content["added_tokens"] = []
    content["model"]["vocab"].pop("<|endoftext|>", None)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has no token <\|endoftext\|>"):
        Tokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("d_vocab", [-1, 0, 256, 10**9])
def test_a_vocabulary_that_cannot_be_is_refused(d_vocab):
    with pytest.raises(UserError, match=f"d_vocab is {d_vocab}"):
        Tokenizer.train(["x"], d_vocab)
