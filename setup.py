"""Builds the compiled kernels with the package; without a compiler the package installs all the same and runs on PyTorch alone."""

import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = Path("src/openwork/kernels")


class BuildKernels(build_ext):
    """Calls openwork.kernels.build, the one place that knows how."""

    def build_extension(self, ext: Extension) -> None:
        recipe = runpy.run_path(str(KERNELS / "build.py"))
        place = (Path.cwd() / KERNELS) if self.inplace else Path(self.build_lib).absolute() / "openwork/kernels"
        try:
            recipe["build"](place)
        except recipe["BuildFailed"] as error:
            print(f"openwork: kernels not compiled, slower PyTorch ones are used: {error}", file=sys.stderr)

    def get_outputs(self) -> list[str]:
        return []

    def copy_extensions_to_source(self) -> None:
        """Nothing to copy: in place, the library is built where it belongs."""


setup(
    ext_modules=[Extension("openwork.kernels._native", sources=[])],
    cmdclass={"build_ext": BuildKernels},
)
