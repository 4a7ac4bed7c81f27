"""Libraries that openwork can do without: imported when asked for, with the extra to install named where missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from openwork.errors import UserError


def need(module: str, extra: str) -> ModuleType:
    """The imported `module`; a `UserError` says to install openwork's `extra` if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"this needs {module} ({error}); install it with: pip install 'openwork[{extra}]'") from error
