"""Compiles the kernels with the system's C++ compiler into one shared library beside this file.

``python src/openwork/kernels/build.py`` does it by hand; the package's own build calls the same `build`. Nothing but
the standard library is imported, since this also runs before the package is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = "_native.so"
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-falign-loops=64", "-Wall", "-Wextra"]
X86_VARIANTS = {
    "generic": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}


class BuildFailed(RuntimeError):
    """No compiler, or one that could not compile the kernels; the message says which."""


def build(directory: Path = HERE, extra_flags: tuple[str, ...] = ()) -> Path:
    """Compile the kernels into ``directory / "_native.so"``; returns its path.

    Every source but dispatch.cpp is compiled once per instruction set; dispatch.cpp chooses among them at run time. An
    older library is replaced only by a whole new one.

    Raises:
        BuildFailed: there is no compiler (set CXX to name one), or it failed.
    """
    compiler = _compiler()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    common = [*FLAGS, f'-DOPENWORK_SOURCES="{fingerprint()}"', *(["-DOPENWORK_X86"] if x86 else []), *extra_flags]
    with tempfile.TemporaryDirectory() as scratch:
        jobs: list[list[str]] = []
        objects: list[str] = []
        for source in sorted(HERE.glob("*.cpp")):
            once = source.stem == "dispatch"
            for variant, instructions in (X86_VARIANTS if x86 and not once else {"generic": []}).items():
                objects.append(str(Path(scratch) / f"{source.stem}-{variant}.o"))
                named = [f"-DVARIANT={variant}", *instructions]
                jobs.append([*compiler, *common, *named, "-c", str(source), "-o", objects[-1]])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, jobs))
        made = str(Path(scratch) / LIBRARY)
        _run([*compiler, "-shared", *extra_flags, *objects, "-o", made])
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / f".{LIBRARY}.{os.getpid()}"
        shutil.copy(made, aside)
        aside.replace(directory / LIBRARY)
    return directory / LIBRARY


def fingerprint() -> str:
    """Identifies the sources; the library carries that of those it was compiled from."""
    sources = sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")])
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]


def _compiler() -> list[str]:
    if named := os.environ.get("CXX"):
        return shlex.split(named)
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return [name]
    raise BuildFailed("no C++ compiler was found; install g++ or clang++, or name one in CXX")


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as error:
        raise BuildFailed(f"{command[0]} cannot be run: {error}") from None
    except subprocess.CalledProcessError as error:
        raise BuildFailed(f"{shlex.join(command)} failed: {error.stderr.strip()[-500:]}") from None


if __name__ == "__main__":
    try:
        print(build(extra_flags=tuple(sys.argv[1:])))
    except BuildFailed as error:
        sys.exit(f"openwork: {error}")
