"""A circuit as text that a person can follow, and as a program: from the tokens to the answer."""

from openwork.explain.program import write_program
from openwork.explain.seen import Seen, see
from openwork.explain.text import to_numbers, to_text

__all__ = ["Seen", "see", "to_numbers", "to_text", "write_program"]
