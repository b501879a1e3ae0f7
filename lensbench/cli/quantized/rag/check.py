"""Measure retrieval: how often the right document is among the first found.

Recall@k and mean reciprocal rank (MRR, within the first 10), each with a 95 % interval over
questions, beside a search by words (tf-idf) over the same documents.

Example:

    lensbench rag check faq-index questions.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lensbench.cli.console import interruptible, messages, results, say_json, show_problems, table
from lensbench.cli.options import Json
from lensbench.cli.quantized.rag.reading import Where
from lensbench.errors import InputProblems, Problem
from lensbench.quantized.rag.spec import Embedding


def check(
    index: Where,
    labelled: Annotated[
        Path, Parameter(help="Questions: a .csv, .jsonl or .json with id, question, document_id.")
    ],
    *,
    model: Annotated[
        Embedding, Parameter(help="Embedding model: a hub name or a folder. Default: its own.")
    ] = None,
    json: Json = False,
) -> int:
    from lensbench.quantized.rag.index import open_index
    from lensbench.quantized.rag.quality import by_meaning, by_words, measures, read_labelled

    problems: list[Problem] = []
    with (
        interruptible(kept=False),
        open_index(index, model) as opened,
        messages.status("searching"),
    ):
        rows = read_labelled(labelled, opened, problems)
        if not rows:
            what, remedy = "it has no question that can be used", "Mend what is named above."
            raise InputProblems([*problems, Problem(labelled.name, what, remedy)])
        found = measures(by_meaning(opened, rows), by_words(opened, rows))
    show_problems(problems)
    if json:
        say_json(found)
    else:
        _show(found, len(rows))
    return 1 if problems else 0


def _show(found: Sequence[dict[str, Any]], n_questions: int) -> None:
    from lensbench.quantized.rag.quality import measure_cell

    kinds = {"meaning": "by meaning", "words": "by words (tf-idf)", "difference": "difference"}
    rows = [
        {"measure": row["measure"]} | {kinds[kind]: measure_cell(row[kind]) for kind in kinds}
        for row in found
    ]
    results.print(table(rows, left=("measure",)))
    results.print(f"{n_questions} questions; 95 % intervals", highlight=False)
