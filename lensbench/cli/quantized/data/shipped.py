"""Copy a data set that travels with lensbench (licence CC0-1.0).

`retrieval` asks in other words for pairs of `general` and of `data docstrings --kind what`.

Example:

    lensbench data shipped general -o general.csv
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import say
from lensbench.cli.quantized.data.files import Out, require_new
from lensbench.files import write_bytes
from lensbench.quantized.data.spec import ShippedSet


def shipped(
    name: Annotated[
        ShippedSet,
        Parameter(
            help="general: questions and answers; python_reference: about Python; "
            "retrieval: labelled questions."
        ),
    ],
    *,
    out: Out,
) -> None:
    from lensbench.quantized.data.shipped import dataset

    require_new(out, [], ".csv")
    write_bytes(out, dataset(name).read_bytes())
    say(out)
