"""Make the Auto classes of `transformers` know our models, without importing `transformers` before anyone needs it.

Its two modules that hold the mappings are watched for: once one has been imported, so is ours, which enters itself.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

OURS = {
    "transformers.models.auto.configuration_auto": "openwork.interop.huggingface.config",
    "transformers.models.auto.modeling_auto": "openwork.interop.huggingface.modeling",
}
"""The modules with the mappings, and ours that enter themselves there."""


def register_when_imported() -> None:
    """Enter our classes in the Auto classes now, or as soon as they are imported; twice does no more than once."""
    for theirs, ours in OURS.items():
        if theirs in sys.modules:
            importlib.import_module(ours)
    if not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


class _Watch(MetaPathFinder):
    """Finds the two modules as Python would, and has their loaders import ours afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in OURS:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenOurs(spec.loader)
        return spec


class _ThenOurs(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        importlib.import_module(OURS[module.__name__])  # half there if it is what asked for theirs; then it goes on

    def __getattr__(self, name: str) -> object:
        return getattr(self.loader, name)  # whoever asks for the source gets it
