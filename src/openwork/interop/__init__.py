"""The ways in and out: released models and their circuits, Hugging Face, graphs and the names that others use.

Whatever needs another library imports it when called, and says which extra to install where it is missing.
"""

from openwork.interop import attribution, graphs, huggingface, openai, transformerlens

__all__ = ["attribution", "graphs", "huggingface", "openai", "transformerlens"]
