"""Make question/answer pairs of the installed Python standard library's docstrings.

The same version of Python gives the same file. A `.about.json` beside it states the licence
(PSF-2.0), the Python version and the SHA-256 of the file. A pair's group is its module. Of
kind what there is one a thing, to search in.

Examples:

    lensbench data docstrings -o pairs.jsonl

    lensbench data docstrings --kind what -o documents.jsonl
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import interruptible, messages, say
from lensbench.cli.quantized.data.files import Out, require_new
from lensbench.quantized.data.spec import QuestionKind


def docstrings(
    *,
    out: Out,
    kind: Annotated[
        tuple[QuestionKind, ...], Parameter(help="Only such questions; repeatable. Default: all.")
    ] = (),
) -> None:
    from lensbench.quantized.data.docstrings import KINDS, write_docstrings

    require_new(out, [], ".jsonl")
    with interruptible(kept=False), messages.status("reading the standard library"):
        facts = write_docstrings(out, kind or KINDS)
    say(
        f"{out}: {facts['pairs']:,} pairs of {facts['modules']} modules of Python "
        f"{facts['python_version']}, licence {facts['licence']}, sha256 {facts['sha256']}"
    )
