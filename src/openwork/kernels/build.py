"""Compiles the kernels with the system's C++ compiler into one shared library beside this file.

``python -m openwork.kernels.build`` does it by hand; the package's own build calls the same `build`. This module imports
nothing but the standard library, since it also runs before the package is installed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = "_native.so"
X86_VARIANTS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-Wall", "-Wextra"]


class BuildFailed(RuntimeError):
    """No compiler, or one that could not compile the kernels; the message says which."""


def build(directory: Path = HERE, extra_flags: tuple[str, ...] = ()) -> Path:
    """Compile the kernels into ``directory / "_native.so"``; returns its path.

    Raises:
        BuildFailed: there is no compiler (set CXX to name one), or it failed.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        raise BuildFailed("no C++ compiler found; install g++ or clang++, or set CXX")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    flags = [*FLAGS, *(["-DOPENWORK_X86"] if x86 else []), *extra_flags]
    with tempfile.TemporaryDirectory() as scratch:
        openmp = ["-fopenmp"] if _compiles(compiler, "-fopenmp", Path(scratch)) else []
        objects = []
        for source in sorted(HERE.glob("*.cpp")):
            variants = {"": []} if source.stem == "cpu" else X86_VARIANTS if x86 else {"generic": []}
            for variant, instructions in variants.items():
                target = Path(scratch) / f"{source.stem}-{variant}.o"
                named = [f"-DVARIANT={variant}"] if variant else []
                _run([compiler, *flags, *openmp, *instructions, *named, "-c", str(source), "-o", str(target)])
                objects.append(str(target))
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / f".{LIBRARY}.{os.getpid()}"
        _run([compiler, "-shared", *openmp, *extra_flags, *objects, "-o", str(aside)])
        aside.replace(directory / LIBRARY)
    return directory / LIBRARY


def _compiles(compiler: str, flag: str, scratch: Path) -> bool:
    source = scratch / "probe.cpp"
    source.write_text("int main() { return 0; }\n")
    command = [compiler, flag, str(source), "-o", str(scratch / "probe")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildFailed(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


if __name__ == "__main__":
    try:
        print(build(extra_flags=tuple(sys.argv[1:])))
    except BuildFailed as error:
        sys.exit(f"openwork: {error}")
