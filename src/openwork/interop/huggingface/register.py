"""Make the Auto classes of `transformers` know our models, without importing `transformers` before anyone needs it.

Its two modules that hold the mappings are watched for: once one has been imported, our class is entered there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

AUTO_CONFIG = "transformers.models.auto.configuration_auto"
AUTO_MODEL = "transformers.models.auto.modeling_auto"


def register_when_imported() -> None:
    """Enter our classes in the Auto classes now, or as soon as they are imported; twice does no more than once."""
    for module in (AUTO_CONFIG, AUTO_MODEL):
        if module in sys.modules:
            _register(module)
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _register(module: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from openwork.interop.huggingface.config import OpenworkConfig

    AutoConfig.register(OpenworkConfig.model_type, OpenworkConfig, exist_ok=True)
    if module == AUTO_MODEL:
        from openwork.interop.huggingface.modeling import OpenworkForCausalLM

        AutoModelForCausalLM.register(OpenworkConfig, OpenworkForCausalLM, exist_ok=True)


class _Watch(MetaPathFinder):
    """Finds the two modules as Python would, and has their loaders register our classes afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in (AUTO_CONFIG, AUTO_MODEL):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _register(module.__name__)

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # whoever asks for the source gets it
