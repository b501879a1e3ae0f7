"""Add documents to an index, or bring them up to date; the unchanged are left alone.

Examples:

    lensbench rag add faq-index more.csv

    lensbench rag add faq-index faq.csv --delete-missing
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from lensbench.cli.console import interruptible, messages
from lensbench.cli.quantized.rag import reading
from lensbench.cli.quantized.rag.reading import AS_USUAL, Files, Where
from lensbench.quantized.rag.spec import ReadingSpec


def add(
    index: Where,
    files: Files,
    *,
    replace: Annotated[bool, Parameter(help="Also over documents of other files, by id.")] = False,
    delete_missing: Annotated[
        bool, Parameter(help="Delete what these files held and no longer hold.")
    ] = False,
    how: Annotated[ReadingSpec, Parameter("*")] = AS_USUAL,
) -> int:
    from lensbench.quantized.rag.index import open_index

    with interruptible(), open_index(index, how.model) as opened:
        with messages.status("loading the embedding model"):
            embedder = opened.embedder
        documents, problems = reading.read(files, embedder, how)
        if not replace:
            taken = opened.taken(documents)
            problems += taken
            skipped = {problem.prompt_id for problem in taken}
            documents = [document for document in documents if document.id not in skipped]
        changes = reading.add(opened, documents, delete_missing=delete_missing and not problems)
    return reading.finish(index, changes, problems)
