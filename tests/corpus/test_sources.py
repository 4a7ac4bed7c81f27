from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from openwork.corpus.sources import Skips, open_source
from openwork.errors import UserError


def read(source: str | Path, skips: Skips | None = None) -> dict[str, str]:
    return {document.name: document.text for document in open_source(str(source), 0, skips or Skips())}


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_a_directory_gives_its_files_by_extension_in_an_order_of_their_names_alone(tmp_path):
    names = [f"{place}{i}.py" for place in ("", "a/", "a/b/") for i in range(9)]
    write(tmp_path / "one", *names, "notes.txt", "script.js", ".git/hook.py")
    write(tmp_path / "two", *reversed(names))
    found = list(read(tmp_path / "one"))
    assert sorted(found) == sorted(names)
    assert found == list(read(tmp_path / "two")) != sorted(names)  # a fair sample in front, wherever and whenever
    other_seed = [document.name for document in open_source(str(tmp_path / "one"), 1, Skips())]
    assert sorted(other_seed) == sorted(names) and other_seed != found
    assert set(read(f"{tmp_path}/one#.txt.js")) == {"notes.txt", "script.js"}
    assert read(tmp_path / "one" / "notes.txt") == {"notes.txt": "notes.txt"}


def test_a_detail_that_makes_no_sense_is_refused(tmp_path):
    write(tmp_path, "a.py")
    with pytest.raises(UserError, match=r"ends in no extensions; write them like"):
        read(f"{tmp_path}#py")
    with pytest.raises(UserError, match="has no columns for '#code'"):
        read(f"{tmp_path}/a.py#code")


GITIGNORES = {
    ".gitignore": "drop.py\nbuild/\n/only_here.py\n*.tmp.py\n# no_comment.py\n",
    "sub/.gitignore": "only.py\n!drop.py\n",
    "sub/deep/.gitignore": "!only.py\n",
}
FILES = (
    *("keep.py", "drop.py", "build/x.py", "build.py", "only_here.py", "no_comment.py", "x.tmp.py"),
    *("sub/drop.py", "sub/only.py", "sub/only_here.py", "sub/build/x.py", "sub/deep/only.py", "sub/deep/drop.py"),
)


def test_gitignore_is_respected_at_every_depth(tmp_path):
    write(tmp_path, *FILES)
    for name, text in GITIGNORES.items():
        (tmp_path / name).write_text(text)
    kept = {"keep.py", "build.py", "no_comment.py", "sub/drop.py", "sub/only_here.py", "sub/deep/only.py"}
    assert set(read(tmp_path)) == kept | {"sub/deep/drop.py"}


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_gitignore_is_read_as_git_reads_it(tmp_path):
    write(tmp_path, *FILES)
    for name, text in GITIGNORES.items():
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=tmp_path, check=True, capture_output=True
    ).stdout.decode()
    assert set(read(tmp_path)) == set(listed.split())
    assert {f"sub/{name}" for name in read(tmp_path / "sub")} == {n for n in listed.split() if n.startswith("sub/")}


def test_what_cannot_be_read_is_named_and_passed_over(tmp_path):
    (tmp_path / "binary.py").write_bytes(b"a\0b")
    (tmp_path / "latin.py").write_bytes("é = 1".encode("latin-1"))
    (tmp_path / "cookie.py").write_bytes(b"# -*- coding: latin-1 -*-\n" + "é = 1".encode("latin-1"))
    (tmp_path / "wrong_cookie.py").write_bytes(b"# coding: no-such-codec\n")
    (tmp_path / "fine.py").write_bytes("ü = 1\r\n".encode())
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere")
    skips = Skips()
    texts = read(tmp_path, skips)
    assert set(texts) == {"cookie.py", "fine.py"}
    assert "é = 1" in texts["cookie.py"]
    assert texts["fine.py"] == "ü = 1\n"
    reasons = dict(note.split(": ", 1) for note in skips.first)
    assert skips.count == len(reasons) == 4
    assert {Path(name).name for name in reasons} == {"binary.py", "latin.py", "wrong_cookie.py", "gone.py"}
    assert reasons["binary.py"] == "not text: binary, it has NUL bytes"
    assert "no-such-codec" in reasons["wrong_cookie.py"]
    assert "a broken link" in reasons[str(tmp_path / "gone.py")]
    assert reasons["latin.py"].startswith("not text: ")


def test_a_file_without_rights_is_named_and_passed_over(tmp_path, monkeypatch):
    write(tmp_path, "a.py", "secret.py")
    content = Path.read_bytes

    def refuse(path):
        if path.name == "secret.py":
            raise PermissionError(13, "Permission denied", str(path))
        return content(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    skips = Skips()
    assert list(read(tmp_path, skips)) == ["a.py"]
    assert skips.first == ["secret.py: Permission denied"]


def test_many_are_counted_and_the_first_hundred_named(tmp_path):
    for i in range(105):
        (tmp_path / f"{i}.py").write_bytes(b"\0")
    skips = Skips()
    assert read(tmp_path, skips) == {}
    assert (skips.count, len(skips.first)) == (105, 100)


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
    assert skips.first == [f"{tmp_path / 'secret'}: Permission denied"]


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
    assert [note.split(": ")[0] for note in skips.first] == ["d.jsonl:2", "d.jsonl:3", "d.jsonl:5"]
    assert read(f"{path}#code") == {"d.jsonl:1": "uno"}
    with pytest.raises(UserError, match=r"has no column 'cod', it has 'text', 'code'; choose one with d.jsonl#column"):
        read(f"{path}#cod")
    path.write_bytes(b'[1]\n{"text": "two"}\n\xff\xfe\n' + b"[" * 100_000)
    assert read(path, skips := Skips()) == {"d.jsonl:2": "two"}
    assert skips.count == 3


def test_a_text_column_of_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "d.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "two"], "n": [1, 2, 3]}), path)
    assert read(path) == {"d.parquet:1": "one", "d.parquet:3": "two"}
    with pytest.raises(UserError, match="no column 'code', it has 'text', 'n'"):
        read(f"{path}#code")
    path.write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(UserError, match="cannot read .* as Parquet") as caught:
        read(path)
    assert "\n" not in str(caught.value)


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
    with pytest.raises(UserError, match=r"cannot stream hub:off/line \(ConnectionError: no route\)"):
        read("hub:off/line")


def test_an_unknown_source_is_refused():
    with pytest.raises(UserError, match="no corpus source 'nowhere'; give stdlib"):
        open_source("nowhere", 0, Skips())


def test_the_standard_library_is_there_with_its_tests_but_without_installed_packages():
    names = {document.name for document in islice(open_source("stdlib", 0, Skips()), 600)}
    assert any(name.startswith(("test/", "asyncio/")) for name in names)
    assert any("/" not in name for name in names)
    assert not any("site-packages" in name or "__pycache__" in name for name in names)


def test_idioms_are_the_same_for_the_same_seed():
    first = [document.text for document in islice(open_source("idioms", 3, Skips()), 5)]
    assert first == [document.text for document in islice(open_source("idioms", 3, Skips()), 5)]
    assert first != [document.text for document in islice(open_source("idioms", 4, Skips()), 5)]


def test_links_to_directories_are_not_followed(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("x")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert list(read(tmp_path)) == ["a/x.py"]


def test_a_path_that_exists_is_that_path_whatever_signs_it_has(tmp_path):
    write(tmp_path, "a#b/x.py", "c.py")
    assert set(read(tmp_path / "a#b")) == {"x.py"}


def test_the_rules_above_a_directory_hold_up_to_its_repository_and_not_beyond(tmp_path):
    write(tmp_path, "repo/src/keep.py", "repo/src/drop.py", "repo/src/far.py", "repo/.git/HEAD")
    (tmp_path / ".gitignore").write_text("far.py\n")
    (tmp_path / "repo" / ".gitignore").write_text("drop.py\n")
    assert set(read(tmp_path / "repo" / "src")) == {"keep.py", "far.py"}


def test_a_directory_that_is_ignored_is_read_when_it_is_named_itself(tmp_path):
    write(tmp_path, "runs/x.py", ".git/HEAD")
    (tmp_path / ".gitignore").write_text("runs/\n")
    assert set(read(tmp_path / "runs")) == {"x.py"}


def test_lines_that_are_no_json_objects_are_passed_over(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"[1]\n3\n\xff\xfe\n" + b"[" * 10**5 + b'\n{"text": "fine"}\n')
    skips = Skips()
    assert read(path, skips) == {"d.jsonl:5": "fine"}
    assert skips.count == 4


def test_hostile_files_are_named_and_passed_over(tmp_path):
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


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_real_rights_are_respected(tmp_path):
    write(tmp_path, "a.py", "locked.py", "secret/x.py")
    (tmp_path / "locked.py").chmod(0)
    (tmp_path / "secret").chmod(0)
    skips = Skips()
    assert list(read(tmp_path, skips)) == ["a.py"]
    assert skips.count == 2
    (tmp_path / "secret").chmod(0o700)


def test_a_mark_in_front_is_no_text_whatever_the_language(tmp_path):
    (tmp_path / "a.js").write_bytes(b"\xef\xbb\xbflet x\n")
    (tmp_path / "b.pyi").write_bytes(b"# coding: latin-1\n\xe9: int\n")
    assert read(f"{tmp_path}#.js.pyi") == {"a.js": "let x\n", "b.pyi": "# coding: latin-1\né: int\n"}


def test_rows_behind_the_first_may_lack_the_column(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "one"}\n{"other": 1}\n{"text": "two"}\n')
    assert list(read(tmp_path / "d.jsonl", skips := Skips()).values()) == ["one", "two"]
    assert skips.first == ["d.jsonl:2: no text in column 'text'"]
