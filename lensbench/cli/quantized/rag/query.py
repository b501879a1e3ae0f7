"""Show the documents nearest to a question, with their cosine similarity.

Examples:

    lensbench rag query faq-index "How do I get my money back?"

    lensbench rag query faq-index "opening hours" --where source=faq.csv --json
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import Field

from lensbench.cli.console import interruptible, messages, results, say, say_json
from lensbench.cli.quantized.rag.reading import WHERE
from lensbench.errors import Problem
from lensbench.escape import printable
from lensbench.prompts.rows import text_problems
from lensbench.quantized.rag.spec import Embedding
from lensbench.spec import ARGUMENT, Spec


class QuerySpec(Spec):
    """What is searched for, and where."""

    index: Annotated[str, ARGUMENT, Field(description=WHERE)]
    question: Annotated[str, ARGUMENT]
    """In quotes."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 3
    """Documents to show."""
    where: tuple[str, ...] = ()
    """Only documents with this metadata, NAME=VALUE; repeatable."""
    model: Embedding = None
    as_json: Annotated[bool, Parameter("--json")] = False
    """JSON on standard output."""

    def problems(self) -> list[Problem]:
        found = [
            Problem("where", f"it is {text!r}", "write NAME=VALUE")
            for text in self.where
            if not all(text.partition("="))
        ]
        return found + text_problems(self.question, "question")


def query(spec: Annotated[QuerySpec, Parameter("*")]) -> None:
    from lensbench.quantized.rag.index import open_index

    filters = dict(text.split("=", 1) for text in spec.where) or None
    status = messages.status("searching")
    with interruptible(kept=False), open_index(spec.index, spec.model) as opened, status:
        complete = opened.about.complete
        (hits,) = opened.search([spec.question], spec.top_k, filters)
    if not complete:
        messages.print(
            "[yellow]This index is unfinished:[/] a build or an addition was interrupted, or is "
            "going on. Run it again to finish it."
        )
    if spec.as_json:
        say_json([vars(hit) for hit in hits])
        return
    for hit in hits:
        line = f"{hit.score:.3f}  {printable(hit.id)}"
        results.print(line, style="bold", markup=False, highlight=False)
        say(hit.text)
    if not hits:
        messages.print("No document has that metadata.")
