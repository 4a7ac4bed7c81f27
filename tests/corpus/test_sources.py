from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path

import pytest

from openwork.corpus.sources import Skips, open_source
from openwork.errors import UserError


def read(source: str | Path, skips: Skips | None = None) -> dict[str, str]:
    return {document.name: document.text for document in open_source(str(source), 0, skips or Skips())}


def test_a_directory_gives_its_source_files_in_the_order_of_their_paths(tmp_path):
    for name in ("b.py", "a/z.py", "a/b/c.py", "notes.txt", ".git/hook.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list(read(tmp_path)) == ["a/b/c.py", "a/z.py", "b.py"]
    assert read(tmp_path / "notes.txt") == {"notes.txt": "notes.txt"}


def test_gitignore_is_respected_at_every_depth(tmp_path):
    for name in ("keep.py", "drop.py", "build/x.py", "sub/drop.py", "sub/only.py", "sub/deep/only.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".gitignore").write_text("drop.py\nbuild/\n")
    (tmp_path / "sub" / ".gitignore").write_text("only.py\n!drop.py\n")
    assert list(read(tmp_path)) == ["keep.py", "sub/drop.py"]


def test_what_cannot_be_read_is_named_and_passed_over(tmp_path):
    (tmp_path / "binary.py").write_bytes(b"a\0b")
    (tmp_path / "latin.py").write_bytes("é = 1".encode("latin-1"))
    (tmp_path / "cookie.py").write_bytes(b"# -*- coding: latin-1 -*-\n" + "é = 1".encode("latin-1"))
    (tmp_path / "wrong_cookie.py").write_bytes(b"# coding: no-such-codec\n")
    (tmp_path / "fine.py").write_text("ü = 1", encoding="utf-8")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    skips = Skips()
    texts = read(tmp_path, skips)
    assert list(texts) == ["cookie.py", "fine.py"]
    assert "é = 1" in texts["cookie.py"]
    assert {name for name, _ in skips.names} == {"binary.py", "latin.py", "wrong_cookie.py", "gone.py"}


def test_a_directory_without_rights_is_named_and_passed_over(tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "a.py").write_text("x")
    listing = Path.iterdir

    def refuse(path):
        if path.name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    skips = Skips()
    assert list(read(tmp_path, skips)) == ["a.py"]
    assert skips.names == [(str(tmp_path / "secret"), "Permission denied")]


def test_a_text_column_of_json_lines(tmp_path):
    lines = [
        json.dumps({"text": "one", "code": "uno"}),
        "{broken",
        json.dumps({"other": 1}),
        "",
        json.dumps({"text": 3}),
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(lines))
    skips = Skips()
    assert read(path, skips) == {"d.jsonl:1": "one"}
    assert [name for name, _ in skips.names] == ["d.jsonl:2", "d.jsonl:3", "d.jsonl:5"]
    assert read(f"{path}#code") == {"d.jsonl:1": "uno"}


def test_a_text_column_of_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "d.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "two"], "n": [1, 2, 3]}), path)
    assert read(path) == {"d.parquet:1": "one", "d.parquet:3": "two"}
    with pytest.raises(UserError, match="no column 'code'; choose one of text, n"):
        read(f"{path}#code")
    path.write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(UserError, match="cannot read .* as Parquet"):
        read(path)


def test_missing_extras_say_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "d.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'openwork\[parquet\]'"):
        read(tmp_path / "d.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'openwork\[hub\]'"):
        read("hub:someone/something")


def test_a_hub_dataset_is_streamed_and_offline_is_one_line(monkeypatch):
    class Library:
        @staticmethod
        def load_dataset(name, split, streaming):
            assert (split, streaming) == ("train", True)
            if name == "off/line":
                raise ConnectionError("no\nroute")
            return iter([{"text": "a", "code": "x"}, {"text": 3}, {"text": "b"}])

    monkeypatch.setitem(sys.modules, "datasets", Library)
    assert list(read("hub:some/data").values()) == ["a", "b"]
    assert list(read("hub:some/data#code").values()) == ["x"]
    with pytest.raises(UserError, match=r"cannot stream hub:off/line \(no route\)"):
        read("hub:off/line")


def test_an_unknown_source_is_refused():
    with pytest.raises(UserError, match="no corpus source 'nowhere'"):
        open_source("nowhere", 0, Skips())


def test_the_standard_library_is_there_without_installed_packages():
    names = [document.name for document in islice(open_source("stdlib", 0, Skips()), 100)]
    assert "ast.py" in names or "argparse.py" in names
    assert not any("site-packages" in name for name in names)
    assert names == sorted(names, key=lambda name: name.split("/"))


def test_idioms_are_the_same_for_the_same_seed():
    first = [document.text for document in islice(open_source("idioms", 3, Skips()), 5)]
    assert first == [document.text for document in islice(open_source("idioms", 3, Skips()), 5)]
    assert first != [document.text for document in islice(open_source("idioms", 4, Skips()), 5)]


def test_links_to_directories_are_not_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("x")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert list(read(tmp_path)) == ["a/x.py"]
