"""The commands.

Every command that reports takes ``--json FILE`` and writes there every number that it prints. Exit status 0 on success,
2 for what the user can mend (one line says how), 130 when stopped.
"""

from openwork.cli.entry import app, main

__all__ = ["app", "main"]
