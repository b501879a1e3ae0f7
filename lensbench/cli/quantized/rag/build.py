"""Make an index that holds exactly these files; after an interruption, go on.

Examples:

    lensbench rag build faq.csv -o faq-index

    lensbench rag build manual.md notes.txt -o postgresql://me@host/db#manual
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import interruptible, messages
from lensbench.cli.quantized.rag.reading import AS_USUAL, Files, add, finish, read
from lensbench.errors import InputProblems, Problem
from lensbench.quantized.rag.spec import ReadingSpec


def build(
    files: Files,
    *,
    out: Annotated[
        str, Parameter(("--out", "-o"), help="Index: a folder, or postgresql://.../db#name.")
    ],
    how: Annotated[ReadingSpec, Parameter("*")] = AS_USUAL,
) -> int:
    from lensbench.quantized.rag.embedding import load_embedder
    from lensbench.quantized.rag.index import create_index

    with interruptible():
        with messages.status("loading the embedding model"):
            embedder = load_embedder(how.model)
        documents, problems = read(files, embedder, how)
        with create_index(out, embedder) as index:
            others = sorted(set(index.sources()) - {document.source for document in documents})
            if others:
                what = f"{out} also holds {', '.join(others)}"
                raise InputProblems([Problem("--out", what, "Add to it with `rag add`.")])
            changes = add(index, documents, delete_missing=not problems)
        return finish(out, changes, problems)
