"""The models of the paper's release (openai/circuit_sparsity), with their tokenizer and their circuits.

model = openwork.interop.openai.load(directory)   # beeg_config.json + final_model.pt
"""

from __future__ import annotations

from typing import Any

from openwork.interop.openai.circuit import load_circuit
from openwork.interop.openai.download import download
from openwork.interop.openai.tokenizer import load_tokenizer
from openwork.interop.openai.weights import load

__all__ = ["about", "download", "load", "load_circuit", "load_tokenizer"]


def about(name: str | None = None) -> dict[str, Any]:
    """What a model card says of a released model."""
    return {
        "source": f"openai/circuit_sparsity, model {name}" if name else "openai/circuit_sparsity",
        "data": "Python code, as the paper describes it (arXiv 2511.13653); not part of the release",
        "licence": "Apache-2.0",
    }
