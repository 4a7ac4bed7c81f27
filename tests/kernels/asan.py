"""Runs the tests of the kernels under AddressSanitizer and UndefinedBehaviorSanitizer: python tests/kernels/asan.py.

Builds the kernels with both into a temporary directory and fails on the first access out of bounds. Needs g++.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


def main() -> int:
    recipe = runpy.run_path(str(ROOT / "src/openwork/kernels/build.py"))
    runtimes = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            **os.environ,
            "OPENWORK_KERNELS": str(recipe["build"](Path(scratch), extra_flags=FLAGS)),
            "LD_PRELOAD": ":".join(runtimes),
            "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter itself never frees all
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        }
        tests = [str(path) for path in sorted(Path(__file__).parent.glob("test_*.py")) if path.stem != "test_build"]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--noconftest",
            "-s",
            "-p",
            "no:cacheprovider",
            "-k",
            "not compile",
            *tests,
        ]
        return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
