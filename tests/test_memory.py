"""What the process does with its memory."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.slow
def test_freed_memory_is_kept_where_that_was_asked_for():
    code = """
import sys, resource, torch, openwork.memory
if sys.argv[1] == "kept": openwork.memory.keep_freed_memory()
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for n in range(12):
    if n == 2: before = pages()
    tensors = [torch.zeros(mib << 18) for mib in (8, 8, 8, 8, 40, 40)]  # 32 is the most that a threshold can ask for
    del tensors
print(pages() - before)
"""
    pages, soon = {}, {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}  # what glibc begins with
    for way in ("kept", "given back"):
        command = [sys.executable, "-c", code, way]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **soon})
        pages[way] = int(done.stdout)
    assert pages["given back"] > 100_000 and pages["kept"] < pages["given back"] / 4, pages
