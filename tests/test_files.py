"""Files are whole or not there, and what cannot be read is named."""

from __future__ import annotations

import errno
import os

import pytest
from matplotlib.figure import Figure

from openwork.errors import UserError
from openwork.files import only_run, read_json, save_figure, write_atomically


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_run_is_kept_out_but_where_directories_cannot_be_locked(tmp_path, monkeypatch):
    place = tmp_path / "m"
    with (
        only_run(place, ""),
        pytest.raises(UserError, match="another run writes to .*m; wait"),
        only_run(place, "wait"),
    ):
        pass
    with only_run(place, ""):
        pass

    def unsupported(descriptor, kind):
        raise OSError(errno.EBADF, "Bad file descriptor")  # what Linux says of a directory on NFS

    monkeypatch.setattr("fcntl.flock", unsupported)
    with only_run(place, ""), only_run(place, ""):
        pass


def test_a_figure_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "new" / "curve.png"
    save_figure(Figure(), path)
    whole = path.read_bytes()
    assert whole.startswith(b"\x89PNG") and whole.rstrip().endswith(b"IEND\xaeB`\x82")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*curve.png: No space left"):
        save_figure(Figure(), path)
    assert path.read_bytes() == whole and os.listdir(path.parent) == ["curve.png"]


def test_json_that_is_damaged_or_no_object_is_named(tmp_path):
    for text, says in (("{", "is damaged"), ("[1]", "holds no JSON object")):
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(UserError, match=says):
            read_json(tmp_path / "c.json", "card")
