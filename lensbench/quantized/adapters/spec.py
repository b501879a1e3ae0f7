"""Where an adapter goes, and how large it is."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from lensbench.spec import Count, Share, Spec


def _listed(given: object) -> object:
    """Several names or numbers as a user writes them: a,b."""
    if isinstance(given, (list, tuple, range)):
        return ",".join(map(str, given))
    return str(given) if type(given) is int else given


Blocks = Annotated[
    str,
    BeforeValidator(_listed),
    Field(
        description="Blocks to adapt, counted from 0: all, 15-20, 0,3,15-20, or auto:FILE, a file "
        "of `lensbench correlate --suggest-blocks`. Block i puts out layer i + 1 of a record."
    ),
]
Targets = Annotated[
    str,
    BeforeValidator(_listed),
    Field(description="Of q, k, v, o, gate, up, down; or names of linear modules in a block."),
]

Rank = Annotated[Count, Field(description="Rank of the update.")]
Alpha = Annotated[Count, Field(description="The update is alpha / rank times B A.")]
Dropout = Annotated[Share, Field(description="Dropout before A, in training.")]


class Lora(Spec):
    """The settings of an adapter (Hu et al. 2021): the update of a weight is alpha / rank * B A."""

    blocks: Blocks = "all"
    targets: Targets = "q,k,v,o"
    rank: Rank = 8
    alpha: Alpha = 16
    dropout: Dropout = 0.05
