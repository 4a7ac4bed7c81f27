"""Hugging Face, both ways: our models for `transformers`, and its dense GPT-2 models behind our door.

export(model, directory)         # a directory for AutoModelForCausalLM.from_pretrained and pipeline
model = load_gpt2("gpt2")        # a Transformer: run(record, edit), prune, verify

After ``import openwork`` the Auto classes of `transformers` know our models; `transformers` itself is imported by
whoever uses it, not here.
"""

from __future__ import annotations

from openwork.interop.huggingface.export import check_new, export
from openwork.interop.huggingface.gpt2 import load_gpt2

__all__ = ["check_new", "export", "load_gpt2"]
