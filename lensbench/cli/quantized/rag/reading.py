"""Documents from files into an index, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from lensbench.cli.console import batch_progress, messages, note, show_problems
from lensbench.errors import InputProblems, Problem
from lensbench.quantized.rag.spec import ReadingSpec

if TYPE_CHECKING:
    from lensbench.quantized.rag.documents import Document
    from lensbench.quantized.rag.embedding import Embedder
    from lensbench.quantized.rag.index import Changes, Index

Files = Annotated[
    tuple[Path, ...], Parameter(help="Documents: .csv or .jsonl (a row each), .txt or .md (cut).")
]
WHERE = "A folder, or postgresql://.../database#name."
Where = Annotated[str, Parameter(help=WHERE)]
AS_USUAL = ReadingSpec()


def read(
    files: Sequence[Path], embedder: Embedder, how: ReadingSpec
) -> tuple[list[Document], list[Problem]]:
    """The files' documents and what is wrong with them. Raises InputProblems: not one document."""
    from lensbench.quantized.rag.documents import Reading, read_documents

    limit = embedder.limit
    if how.max_tokens is not None and how.max_tokens > limit:
        what = f"{embedder.name} takes at most {limit} tokens, not {how.max_tokens}"
        raise InputProblems([Problem("--max-tokens", what, "Give fewer.")])
    reading = Reading(
        embedder.count, how.max_tokens or limit, how.id_column, text_columns=how.text_columns
    )
    problems: list[Problem] = []
    with messages.status("reading"):
        documents = read_documents(files, reading, problems)
    if not documents:
        raise InputProblems(problems)
    return documents, problems


def add(index: Index, documents: Sequence[Document], delete_missing: bool) -> Changes:
    """Bring the index up to date with these documents."""
    with batch_progress() as progress:
        return index.add(documents, delete_missing, progress)


def finish(where: str, changes: Changes, problems: Sequence[Problem]) -> int:
    """Say what changed; 1 if a row was skipped."""
    from lensbench.quantized.rag.database import find_place

    show_problems(problems)
    counts = ", ".join(f"{count:,} {name}" for name, count in vars(changes).items())
    note(f"{find_place(where)}: {counts}")
    return 1 if problems else 0
