"""The ways in and out: released models and their circuits, Hugging Face, graphs and the names that others use.

Each of these is imported when it is first used. Whatever needs another library imports it when called, and says which
extra to install where it is missing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # what is in __init__.pyi
