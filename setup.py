"""Builds the compiled kernels with the package; without a compiler it installs all the same and uses PyTorch alone."""

import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

KERNELS = "openwork/kernels"


class BuildKernels(build_ext):
    """Calls openwork.kernels.build, the one place that knows how."""

    def run(self) -> None:
        source = Path(__file__).parent.absolute() / "src" / KERNELS
        recipe = runpy.run_path(str(source / "build.py"))
        in_place = self.inplace or getattr(self, "editable_mode", False)
        try:
            recipe["build"](source if in_place else Path(self.build_lib).absolute() / KERNELS)
        except recipe["BuildFailed"] as error:
            print(
                f"openwork: the kernels were not compiled, slower PyTorch ones will be used: {error}", file=sys.stderr
            )

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


# The extension has no sources of its own: it is named so that the wheel is known to hold compiled code.
setup(ext_modules=[Extension("openwork.kernels._native", sources=[])], cmdclass={"build_ext": BuildKernels})
