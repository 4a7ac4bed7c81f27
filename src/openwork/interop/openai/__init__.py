"""The models of the paper's release (openai/circuit_sparsity), with their tokenizer and their circuits.

model = openwork.interop.openai.load(directory)   # beeg_config.json + final_model.pt
"""

from openwork.interop.openai.circuit import load_circuit
from openwork.interop.openai.download import download
from openwork.interop.openai.tokenizer import load_tokenizer
from openwork.interop.openai.weights import load

__all__ = ["download", "load", "load_circuit", "load_tokenizer"]
