"""`python -m openwork`: the commands, as `openwork` has them."""

from openwork.cli import main

main()
