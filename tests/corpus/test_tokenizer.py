from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openwork.corpus import Tokenizer
from openwork.errors import UserError

TEXT = "def f(self, x):\n    return print('one', \"two\", x[0][1]) + 12345\n\n" * 30


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT], 320)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_kinds_are_never_joined(tokenizer):
    pieces = tokenizer.tokens(tokenizer.encode("print('one')  x12345y\n\n    z"))
    assert pieces == ["print", "('", "one", "')", "  ", "x", "123", "45", "y", "\n\n", "    ", "z"]


def test_quote_marks_are_tokens_of_their_own(tokenizer):
    for text in ("('", "')", ' "', '",'):
        assert len(tokenizer.encode(text)) == 1


def test_the_last_token_ends_texts_and_no_text_can_write_it(tokenizer):
    assert tokenizer.end_of_text == tokenizer.d_vocab - 1
    assert tokenizer.end_of_text not in tokenizer.encode("a <|endoftext|> b")
    assert tokenizer.decode(tokenizer.encode("a <|endoftext|> b")) == "a <|endoftext|> b"


def test_it_is_learnt_the_same_again_and_found_again(tokenizer, tmp_path):
    assert Tokenizer.train([TEXT], 320).hash == tokenizer.hash
    assert Tokenizer.train([TEXT], 300).hash != tokenizer.hash
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.hash == tokenizer.hash
    assert loaded.encode_many([TEXT, "x"]) == [tokenizer.encode(TEXT), tokenizer.encode("x")]


def test_what_is_no_tokenizer_is_refused(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Tokenizer.load(path)
    for content in (b"{}", b"\xff\xfe", b"not json"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            Tokenizer.load(path)
    tokenizer.save(path)
    content = json.loads(path.read_text())
    content["added_tokens"] = []
    del content["model"]["vocab"]["<|endoftext|>"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no token <|endoftext|>"):
        Tokenizer.load(path)
    with pytest.raises(UserError, match="d_vocab is 100"):
        Tokenizer.train(["x"], 100)
