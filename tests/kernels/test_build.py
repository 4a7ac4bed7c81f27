"""Building, loading, and what happens where there is no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openwork import kernels
from openwork.kernels import build, library, on_gpu

SOURCE = str(Path(kernels.__file__).parents[2])


def test_without_the_library_the_twins_take_over_with_one_line(tmp_path):
    code = (
        "import torch; from openwork.kernels import *; print(native, abs_topk(torch.tensor([1., -3., 2.]), 1).tolist())"
    )
    environment = {**os.environ, "PYTHONPATH": SOURCE, "OPENWORK_KERNELS": str(tmp_path / "missing.so")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False [0.0, -3.0, 0.0]\n"
    assert len(done.stderr.splitlines()) == 1
    assert "missing.so" in done.stderr and "install g++" in done.stderr and "build.py" in done.stderr


def test_the_twins_can_be_chosen(monkeypatch, caplog):
    monkeypatch.setenv("OPENWORK_KERNELS", "torch")
    assert library.load() is None and not caplog.messages


def test_a_library_of_other_sources_is_not_used(tmp_path, monkeypatch, caplog):
    if library.library is None:
        pytest.skip("the kernels were not compiled here")
    stale = tmp_path / "stale.so"
    stale.write_bytes(Path(library.library._name).read_bytes().replace(build.fingerprint().encode(), b"0" * 16))
    monkeypatch.setenv("OPENWORK_KERNELS", str(stale))
    assert library.load() is None and "other sources" in caplog.text


def test_no_compiler_and_a_failing_one_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildFailed, match="no C\\+\\+ compiler was found"):
        build.build(tmp_path)
    for compiler, reason in (("no-such-compiler", "cannot be run"), (f"{sys.executable} -c exit(3) #", "failed")):
        monkeypatch.setenv("CXX", compiler)
        with pytest.raises(build.BuildFailed, match=reason):
            build.build(tmp_path)
    assert not list(tmp_path.glob("*.so"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.skipif(library.library is None, reason="the kernels were not compiled here")
def test_there_is_one_openmp_runtime_and_its_threads_are_used():
    kernels.abs_topk(torch.randn(2000, 64), 16)
    mapped = {
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "gomp" in line or "iomp" in line
    }
    assert len(mapped) == 1
    assert library._fork() is not None


def test_all_is_sorted_and_true():
    assert kernels.__all__ == sorted(kernels.__all__) and all(hasattr(kernels, name) for name in kernels.__all__)


def test_without_triton_a_gpu_uses_the_twins_with_one_line(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openwork.kernels.gpu", None)
    monkeypatch.delattr(kernels, "gpu", raising=False)
    assert on_gpu._module.__wrapped__() is None
    assert len(caplog.messages) == 1 and "install triton" in caplog.text
