"""`python -m tests.benchmarks.recall`: does retrieval find the document that answers a question?"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cyclopts
from rich.console import Console

from lensbench.errors import Problem
from lensbench.files import write_text
from lensbench.quantized.data.docstrings import docstring_pairs
from lensbench.quantized.data.pairs import write_csv
from lensbench.quantized.data.shipped import dataset
from lensbench.quantized.rag.documents import Reading, read_documents
from lensbench.quantized.rag.embedding import load_embedder
from lensbench.quantized.rag.index import create_index
from lensbench.quantized.rag.quality import (
    by_meaning,
    by_words,
    measure_cell,
    measures,
    read_labelled,
)
from tests.benchmarks.table import Out, made_by, markdown_table

_SEARCHES = ("meaning", "words", "difference")


def bench(
    out: Out = Path("reports/bench"),
) -> None:
    """Recall and mean reciprocal rank on the labelled questions that ship with lensbench."""
    with Console(stderr=True).status("indexing and searching"):
        found, n_questions, n_documents = measure()
    text = _markdown(found, n_questions, n_documents)
    write_text(out / "recall.md", text)
    Console().print(text, markup=False, highlight=False)


def measure() -> tuple[list[dict[str, Any]], int, int]:
    """Each measure by meaning and by words; how many questions, among how many documents.

    The documents are the general pairs and what this Python's docstrings say of everything in its
    standard library. Questions about something that another Python lacks are left out.
    """
    embedder = load_embedder()
    with tempfile.TemporaryDirectory(prefix="lensbench-bench-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # root's server runs as another user
        write_csv(folder / "docstrings.csv", docstring_pairs(("what",)))
        files = [dataset("general"), folder / "docstrings.csv"]
        documents = read_documents(files, Reading(embedder.count, embedder.limit), [])
        with create_index(folder / "index", embedder) as index:
            index.add(documents)
            problems: list[Problem] = []
            rows = read_labelled(dataset("retrieval"), index, problems)
            found = measures(by_meaning(index, rows), by_words(index, rows))
    return found, len(rows), len(documents)


def _markdown(found: list[dict[str, Any]], n_questions: int, n_documents: int) -> str:
    rows = [[row["measure"], *(measure_cell(row[kind]) for kind in _SEARCHES)] for row in found]
    return "\n".join(
        [
            "# Does retrieval find the right document?",
            "",
            f"The {n_questions} labelled questions that ship with lensbench, each in other words "
            f"than its document, among {n_documents:,} documents: the general pairs and what the "
            "docstrings of Python's standard library say. By meaning is all-MiniLM-L6-v2 in an "
            "index; by words is tf-idf over the same documents. MRR is the mean reciprocal rank. "
            "Brackets: 95 % intervals over questions, of the difference paired.",
            "",
            *markdown_table(("measure", "by meaning", "by words (tf-idf)", "difference"), rows),
            "",
            made_by("bench-recall"),
            "",
        ]
    )


if __name__ == "__main__":
    cyclopts.run(bench)
