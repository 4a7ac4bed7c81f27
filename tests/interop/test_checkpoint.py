"""Files from strangers: no code of theirs runs, nothing large is allocated, one line says what is wrong."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from openwork.errors import UserError
from openwork.interop.openai.checkpoint import open_checkpoint


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def with_pickle(path: Path, data: bytes) -> Path:
    """A PyTorch file whose pickle is `data`."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/data/0", bytes(16))
    return path


def refused(path: Path, says: str) -> None:
    tracemalloc.start()
    with pytest.raises(UserError, match=says) as raised:
        open_checkpoint(path, "checkpoint")
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_not_run(tmp_path, protocol):
    trace = tmp_path / "trace"
    for i, evil in enumerate((Runs(os.system, f"touch {trace}"), Runs(eval, f"open({str(trace)!r}, 'w')"))):
        path = with_pickle(tmp_path / f"{i}.pt", pickle.dumps({"a": evil}, protocol=protocol))
        refused(path, r"would run (posix|nt|builtins|__builtin__)\.(system|eval)")
    assert not trace.exists()


def test_a_pickle_that_would_allocate_is_not_run(tmp_path):
    for i, evil in enumerate((Runs(bytearray, 10**10), Runs(torch.empty, 10**10))):
        refused(with_pickle(tmp_path / f"{i}.pt", pickle.dumps(evil, protocol=2)), "would run")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    huge = struct.pack("<i", 2**31 - 1)  # both the storage's length and the tensor's size
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b"M\xe8\x03", b"J" + huge) if name.endswith(".pkl") else data)
    refused(path, "damaged")


def test_a_zip_that_promises_ten_gigabytes_is_refused(tmp_path):
    path = with_pickle(tmp_path / "a.pt", pickle.dumps({}))
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    path.write_bytes(data)
    refused(path, "says that it holds")


def test_a_compressed_zip_is_refused_unopened(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    refused(path, "compressed")


def test_what_is_no_whole_pytorch_file_is_refused(tmp_path):
    whole = tmp_path / "whole.pt"
    torch.save({"w": torch.randn(100)}, whole)
    assert open_checkpoint(whole, "checkpoint")["w"].shape == (100,)
    data = whole.read_bytes()
    for name, content in {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "text": b"hello\n" * 100,
        "old": pickle.dumps({}),
        "header": struct.pack("<Q", 10**10) + b"{}",
    }.items():
        (tmp_path / f"{name}.pt").write_bytes(content)
        refused(tmp_path / f"{name}.pt", "no whole PyTorch file")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme", "hello")
    refused(tmp_path / "other.pt", "no data.pkl")
    refused(with_pickle(tmp_path / "short.pt", pickle.dumps({"a": 1})[:-3]), "damaged")
    refused(tmp_path / "nothing.pt", "there is no checkpoint")
