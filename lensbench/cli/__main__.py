"""`python -m lensbench.cli`, where the command is not on the path."""

from lensbench.cli import main

main()
