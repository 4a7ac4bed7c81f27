from . import attribution, graphs, huggingface, openai, transformerlens

__all__ = ["attribution", "graphs", "huggingface", "openai", "transformerlens"]
