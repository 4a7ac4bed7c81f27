from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path

import pytest

from openwork.corpus.sources import Skips, open_source
from openwork.errors import UserError


def read(source: str | Path, skips: Skips | None = None, seed: int = 0) -> dict[str, str]:
    return {document.name: document.text for document in open_source(str(source), seed, skips or Skips())}


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_a_directory_gives_its_python_files_and_their_text(tmp_path):
    write(tmp_path, "b.py", "a/z.py", "a/b/c.py", "notes.txt", ".git/hook.py")
    assert read(tmp_path) == {name: name for name in ("b.py", "a/z.py", "a/b/c.py")}
    assert read(tmp_path / "notes.txt") == {"notes.txt": "notes.txt"}


def test_other_extensions_are_named_behind_a_hash(tmp_path):
    write(tmp_path, "a.js", "b.ts", "c.py", "d.min.js")
    assert set(read(f"{tmp_path}#.js.ts")) == {"a.js", "b.ts", "d.min.js"}
    with pytest.raises(UserError, match="write them like src#.js.ts"):
        read(f"{tmp_path}#js")
    with pytest.raises(UserError, match="has no columns for '#code'"):
        read(f"{tmp_path / 'a.js'}#code")


def test_a_path_that_exists_is_that_path_whatever_signs_it_has(tmp_path):
    write(tmp_path, "a#b/x.py", "c.py")
    assert set(read(tmp_path / "a#b")) == {"x.py"}


def test_the_order_is_shuffled_by_seed_and_names_alone(tmp_path):
    names = [f"f{i}.py" for i in range(30)]
    write(tmp_path / "one", *names)
    write(tmp_path / "two", *reversed(names))
    first = list(read(tmp_path / "one"))
    assert first == list(read(tmp_path / "two")) != sorted(names)
    assert set(first) == set(names)
    assert list(read(tmp_path / "one", seed=1)) != first


def test_gitignore_is_respected_at_every_depth(tmp_path):
    write(tmp_path, "keep.py", "drop.py", "build/x.py", "sub/drop.py", "sub/only.py", "sub/deep/only.py")
    write(tmp_path, "sub/deep/keep.py", "sub/build", "sub/deep/rooted.py", "rooted.py")
    (tmp_path / ".gitignore").write_text("drop.py\nbuild/\n/rooted.py\n")
    (tmp_path / "sub" / ".gitignore").write_text("only.py\n!drop.py\n")
    assert set(read(tmp_path)) == {"keep.py", "sub/drop.py", "sub/deep/keep.py", "sub/deep/rooted.py"}


def test_the_rules_above_a_directory_hold_up_to_its_repository_and_not_beyond(tmp_path):
    write(tmp_path, "repo/src/keep.py", "repo/src/drop.py", "repo/src/far.py", "repo/.git/HEAD")
    (tmp_path / ".gitignore").write_text("far.py\n")
    (tmp_path / "repo" / ".gitignore").write_text("drop.py\n")
    assert set(read(tmp_path / "repo" / "src")) == {"keep.py", "far.py"}


def test_a_directory_that_is_ignored_is_read_when_it_is_named_itself(tmp_path):
    write(tmp_path, "runs/x.py", ".git/HEAD")
    (tmp_path / ".gitignore").write_text("runs/\n")
    assert set(read(tmp_path / "runs")) == {"x.py"}


def test_what_cannot_be_read_is_named_and_passed_over(tmp_path):
    (tmp_path / "binary.py").write_bytes(b"a\0b")
    (tmp_path / "latin.py").write_bytes("é = 1".encode("latin-1"))
    (tmp_path / "cookie.py").write_bytes(b"# -*- coding: latin-1 -*-\n" + "é = 1".encode("latin-1"))
    (tmp_path / "wrong_cookie.py").write_bytes(b"# coding: no-such-codec\n")
    (tmp_path / "no_text_codec.py").write_bytes(b"# coding: hex\n6566")
    (tmp_path / "fine.py").write_text("ü = 1", encoding="utf-8")
    (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r")
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.py").symlink_to(tmp_path / "loop.py")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / os.fsdecode(b"name\xff.py")).write_text("named = 1")
    skips = Skips()
    texts = read(tmp_path, skips)
    assert set(texts) == {"cookie.py", "fine.py", "bom.py", "name\\udcff.py"}
    assert "é = 1" in texts["cookie.py"]
    assert texts["bom.py"] == "x = 1\ny = 2\n"
    named = {Path(line.split(": ")[0]).name for line in skips.first}
    spoilt = ("binary", "latin", "wrong_cookie", "no_text_codec", "gone", "loop", "pipe")
    assert named == {f"{name}.py" for name in spoilt}
    assert skips.count == len(named)
    assert any("NUL" in line for line in skips.first)


def test_all_that_is_passed_over_is_counted_and_the_first_hundred_named(tmp_path):
    for i in range(120):
        (tmp_path / f"{i}.py").write_bytes(b"\0")
    skips = Skips()
    assert read(tmp_path, skips) == {}
    assert (skips.count, len(skips.first)) == (120, 100)


def test_a_directory_or_file_without_rights_is_named_and_passed_over(tmp_path, monkeypatch):
    write(tmp_path, "a.py", "locked.py", "secret/x.py")
    listing, reading = Path.iterdir, Path.read_bytes

    def refuse(original, path):
        if path.name in ("secret", "locked.py"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(listing, path))
    monkeypatch.setattr(Path, "read_bytes", lambda path: refuse(reading, path))
    skips = Skips()
    assert list(read(tmp_path, skips)) == ["a.py"]
    assert skips.first == [f"{tmp_path / 'secret'}: Permission denied", "locked.py: Permission denied"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_real_rights_are_respected(tmp_path):
    write(tmp_path, "a.py", "locked.py", "secret/x.py")
    (tmp_path / "locked.py").chmod(0)
    (tmp_path / "secret").chmod(0)
    skips = Skips()
    assert list(read(tmp_path, skips)) == ["a.py"]
    assert skips.count == 2
    (tmp_path / "secret").chmod(0o700)


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
    assert skips.first == [
        "d.jsonl:2: no JSON object",
        "d.jsonl:3: no text in column 'text'",
        "d.jsonl:5: no text in column 'text'",
    ]
    assert read(f"{path}#code") == {"d.jsonl:1": "uno"}
    with pytest.raises(UserError, match="d.jsonl has no column 'body', it has 'text', 'code'; choose one with"):
        read(f"{path}#body")


def test_lines_that_are_no_json_objects_are_passed_over(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"[1]\n3\n\xff\xfe\n" + b"[" * 10**5 + b'\n{"text": "fine"}\n')
    skips = Skips()
    assert read(path, skips) == {"d.jsonl:5": "fine"}
    assert skips.count == 4


def test_a_text_column_of_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "d.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "two"], "n": [1, 2, 3]}), path)
    assert read(path) == {"d.parquet:1": "one", "d.parquet:3": "two"}
    with pytest.raises(UserError, match="has no column 'code', it has 'text', 'n'; choose one"):
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
    assert read("hub:some/data") == {"hub:some/data:1": "a", "hub:some/data:3": "b"}
    assert list(read("hub:some/data#code").values()) == ["x"]
    with pytest.raises(UserError, match=r"cannot stream hub:off/line \(ConnectionError: no route\); check") as caught:
        read("hub:off/line")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nowhere", "", " ", "\0", "/no/such/place", "nowhere#text", "stdlib2", "a" * 5000])
def test_an_unknown_source_is_refused(source):
    with pytest.raises(UserError, match="there is no corpus source .*; give stdlib, idioms"):
        open_source(source, 0, Skips())


def test_the_standard_library_is_there_without_installed_packages():
    names = [document.name for document in islice(open_source("stdlib", 0, Skips()), 300)]
    assert not any("site-packages" in name or "__pycache__" in name for name in names)
    assert all(name.endswith(".py") for name in names)
    root = Path(json.__file__).parents[1]
    assert all((root / name).is_file() for name in names)


def test_idioms_are_the_same_for_the_same_seed():
    first = [document.text for document in islice(open_source("idioms", 3, Skips()), 5)]
    assert first == [document.text for document in islice(open_source("idioms", 3, Skips()), 5)]
    assert first != [document.text for document in islice(open_source("idioms", 4, Skips()), 5)]


def test_links_to_directories_are_not_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("x")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert set(read(tmp_path)) == {"a/x.py"}
