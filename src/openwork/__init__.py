"""Openwork: train language models whose wiring people can read, find their circuits, and test them.

model = openwork.load_model(path)
task = openwork.tasks.get("single_double_quote", model.tokenizer)
circuit = openwork.prune(model, task)
card = openwork.verify(circuit, task)

Its parts (``__init__.pyi`` lists them), and PyTorch with them, are imported when they are first used.
"""

import os

import lazy_loader

from openwork.interop import auto_classes

if "OMP_WAIT_POLICY" not in os.environ:
    # Before PyTorch loads OpenMP: threads that wait for each other soon give way to other processes (docs/speed.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
auto_classes.register_when_imported()
