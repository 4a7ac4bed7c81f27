"""A circuit as text that a person can follow, and as a program: from tokens to the answer."""
