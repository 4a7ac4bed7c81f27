"""Files from strangers: no code of theirs runs, nothing large is allocated, one line says what is wrong."""

from __future__ import annotations

import os
import pickle
import resource
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


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def storage(kind: str = "FloatStorage", key: str = "0", numel: int = 4) -> bytes:
    """Opcodes that leave a storage on the stack, as torch.save writes them."""
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(numel) + b"tQ"


def tensor(shape: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, **claims) -> bytes:
    """Opcodes that build a tensor, as torch.save writes them."""
    sizes = b"".join(b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (shape, stride))
    build = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return build + storage(**claims) + number(offset) + sizes + b"\x89ccollections\nOrderedDict\n)RtR"


def opcodes(path: Path, content: bytes) -> Path:
    return with_pickle(path, b"\x80\x02" + content + b".")


def test_opcodes_written_here_are_those_of_torch_save(tmp_path):
    read = open_checkpoint(opcodes(tmp_path / "a.pt", tensor((2, 2), (2, 1))), "checkpoint")
    assert read.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"cos\nsystem\n" + text("true") + b"\x85R", "would run os.system"),
        (b"(" + number(10**11) + b"ios\nsystem\n", "would run INST.os system"),
        (text("os") + text("system") + b"\x93", "would run os.system"),
        (b"cbuiltins\nbytearray\n" + number(10**11) + b"\x85R", "would run builtins.bytearray"),
        (b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n)R", "would run torch._utils._rebuild_meta"),
        (b"ctorch\nFloatStorage\n" + number(10**11) + b"\x85R", "damaged"),
        (b"ctorch\nFloatStorage\nq\x010h\x01" + number(10**11) + b"\x85R", "its pickle does not build tensors"),
        (tensor((10**10,)), "damaged"),
        (tensor((2, 2), (10**9, 1)), "damaged"),
        (tensor((10**10,), (0,)), "needs 40,000,000,000 bytes"),
        (tensor(offset=1), "damaged"),
        (tensor(numel=10**10), "damaged"),
        (tensor(key="7"), "damaged"),
        (tensor((-4,)), "damaged"),
        (b"R", "damaged"),
        (b"t", "damaged"),
        (b"\xff", "damaged pickle"),
        (b"h\x07", "damaged"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R", "damaged"),
    ],
)
def test_a_hostile_pickle_takes_no_memory(content, says, tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(opcodes(tmp_path / "a.pt", content), says)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"


@pytest.mark.parametrize(
    "content",
    [
        b"]" * 100_000 + b"a" * 99_999,
        b"]q\x00h\x00a",
        b"]q\x00" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"eq" + bytes([i + 1]) for i in range(40)),
    ],
    ids=["deep", "within itself", "ten times ten times ten"],
)
def test_containers_that_no_one_could_walk_through_are_opened_at_once(content, tmp_path):
    assert isinstance(open_checkpoint(opcodes(tmp_path / "a.pt", content), "checkpoint"), list)


def test_a_file_cut_or_altered_anywhere_is_one_line(tmp_path):
    torch.save({"w": torch.randn(30, 40), "b": torch.arange(3)}, tmp_path / "whole.pt")
    data = (tmp_path / "whole.pt").read_bytes()
    for cut in range(0, len(data) - 1, 97):
        (tmp_path / "cut.pt").write_bytes(data[:cut])
        refused(tmp_path / "cut.pt", "download it again")
    for at in range(0, 400, 7):
        (tmp_path / "cut.pt").write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            open_checkpoint(tmp_path / "cut.pt", "checkpoint")
        except UserError as error:
            assert "\n" not in str(error)
