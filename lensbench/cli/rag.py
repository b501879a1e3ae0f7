"""`lensbench rag`: an index of documents for retrieval: build, add, query, info, check."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lensbench.errors import Problem
    from lensbench.quantized.rag.documents import Document
    from lensbench.quantized.rag.embedding import Embedder
    from lensbench.quantized.rag.index import Changes, Index
    from lensbench.quantized.rag.quality import Placed

rag = typer.Typer(no_args_is_help=True, help="Documents to retrieve from: build, add, query.")

Files = Annotated[
    list[Path], typer.Argument(help="Documents: .csv or .jsonl (a row each), .txt or .md (cut).")
]
Where = Annotated[
    str, typer.Argument(metavar="INDEX", help="A folder, or postgresql://.../database#name.")
]
Model = Annotated[
    str | None,
    typer.Option(
        help="Embedding model: a hub name or a folder. Default: all-minilm-l6-v2, from its "
        "package; for an index that is there, its own."
    ),
]
IdColumn = Annotated[str, typer.Option(help="Column of the ids. Without one: file name#row.")]
TextColumn = Annotated[
    list[str] | None,
    typer.Option(
        help="Column of the text; repeatable, then joined by line ends. Default: question + "
        "answer, instruction + response, instruction + output, prompt + response, or text."
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=8,
        help="Longest document, in the embedding model's tokens; a longer one is cut into "
        "id#1, id#2, ... Default: what the model takes (all-minilm-l6-v2: 254).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


@rag.command()
def build(
    files: Files,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Index: a folder, or postgresql://.../db#name.")
    ],
    model: Model = None,
    id_column: IdColumn = "id",
    text_column: TextColumn = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Make an index that holds exactly these files; after an interruption, go on.

    Examples:

        lensbench rag build faq.csv -o faq-index

        lensbench rag build manual.md notes.txt -o postgresql://me@host/db#manual
    """
    from lensbench.cli.console import interruptible
    from lensbench.quantized.rag.index import create_index

    with interruptible():
        embedder = _embedder(model)
        documents, problems = _read(files, embedder, id_column, text_column, max_tokens)
        with create_index(out, embedder) as index:
            others = sorted(set(index.sources()) - {document.source for document in documents})
            if others:
                message = f"{out} also holds {', '.join(others)}; add to it with `rag add`"
                raise typer.BadParameter(message, param_hint="--out")
            changes = _add(index, documents, delete_missing=not problems)
        _finish(out, changes, problems)


@rag.command()
def add(
    where: Where,
    files: Files,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also over documents of other files, by id.")
    ] = False,
    delete_missing: Annotated[
        bool,
        typer.Option("--delete-missing", help="Delete what these files held and no longer hold."),
    ] = False,
    model: Model = None,
    id_column: IdColumn = "id",
    text_column: TextColumn = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Add documents to an index, or bring them up to date; the unchanged are left alone.

    Examples:

        lensbench rag add faq-index more.csv

        lensbench rag add faq-index faq.csv --delete-missing
    """
    from lensbench.cli.console import interruptible
    from lensbench.quantized.rag.index import open_index

    with interruptible(), open_index(where, model) as index:
        with _status("loading the embedding model"):
            embedder = index.embedder
        documents, problems = _read(files, embedder, id_column, text_column, max_tokens)
        if not replace:
            taken = index.taken(documents)
            problems += taken
            left_out = {problem.prompt_id for problem in taken}
            documents = [document for document in documents if document.id not in left_out]
        changes = _add(index, documents, delete_missing=delete_missing and not problems)
    _finish(where, changes, problems)


@rag.command()
def query(
    where: Where,
    question: Annotated[str, typer.Argument(metavar='"QUESTION"')],
    top_k: Annotated[int, typer.Option(min=1, max=1000, help="Documents to show.")] = 3,
    having: Annotated[
        list[str] | None,
        typer.Option("--where", help="Only documents with this metadata, NAME=VALUE; repeatable."),
    ] = None,
    model: Model = None,
    json: Json = False,
) -> None:
    """Show the documents nearest to a question, with their cosine similarity.

    Examples:

        lensbench rag query faq-index "How do I get my money back?"

        lensbench rag query faq-index "opening hours" --where source=faq.csv --json
    """
    from lensbench.cli.console import interruptible, messages, results
    from lensbench.escape import printable
    from lensbench.quantized.rag.index import open_index

    if not question.strip():
        raise typer.BadParameter("the question is empty")
    with interruptible(), open_index(where, model) as index, _status("searching"):
        complete = index.about.complete
        (hits,) = index.search([question], top_k, _filters(having))
    if not complete:
        messages.print(
            "[yellow]This index is unfinished:[/] a build or an addition was interrupted, or is "
            "going on. Run it again to finish it."
        )
    if json:
        rows = [vars(hit) for hit in hits]
        typer.echo(jsonlib.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False))
        return
    for hit in hits:
        line = f"{hit.score:.3f}  {printable(hit.id)}"
        results.print(line, style="bold", markup=False, highlight=False)
        text = "\n".join(printable(part) for part in hit.text.split("\n"))
        results.print(text, markup=False, highlight=False)
    if not hits:
        messages.print("No document has that metadata.")


@rag.command()
def info(where: Where, json: Json = False) -> None:
    """Show what an index holds and which embedding model made it.

    Example:

        lensbench rag info faq-index
    """
    from lensbench.cli.console import literal, results
    from lensbench.quantized.rag.index import open_index

    with open_index(where) as index:
        facts: dict[str, Any] = {**index.facts(), "sources": index.sources()}
    if json:
        typer.echo(jsonlib.dumps(facts, indent=1, ensure_ascii=False))
        return
    sources = facts.pop("sources")
    for name, value in facts.items():
        results.print(f"{name:<16} {literal(value)}", highlight=False, soft_wrap=True)
    for source, count in sources.items():
        results.print(f"{'source':<16} {literal(source)} ({count:,})", highlight=False)


@rag.command()
def check(
    where: Where,
    labelled: Annotated[
        Path, typer.Argument(help="Questions: a .csv or .jsonl with id, question, document_id.")
    ],
    model: Model = None,
    json: Json = False,
) -> None:
    """Measure retrieval: how often the right document is among the first found.

    Recall@k and mean reciprocal rank (MRR, within the first 10), each with a 95 % interval over
    questions, beside a search by words (tf-idf) over the same documents.

    Example:

        lensbench rag check faq-index questions.csv
    """
    from lensbench.cli.console import interruptible
    from lensbench.quantized.rag.index import open_index
    from lensbench.quantized.rag.quality import by_meaning, by_words, read_labelled

    problems: list[Problem] = []
    with interruptible(), open_index(where, model) as index, _status("searching"):
        rows = read_labelled(labelled, index, problems)
        if rows:
            placed = by_meaning(index, rows), by_words(index, rows)
    _show_problems(problems)
    if not rows:
        raise typer.BadParameter(f"{labelled.name} has no question that can be used")
    found = measures(*placed)
    if json:
        typer.echo(jsonlib.dumps(found, indent=1, allow_nan=False))
    else:
        _show_measures(found, len(rows))
    if problems:
        raise typer.Exit(1)


def _status(what: str) -> Any:
    from lensbench.cli.console import messages

    return messages.status(what)


def _embedder(model: str | None) -> Embedder:
    with _status("loading the embedding model"):
        from lensbench.quantized.rag.embedding import load_embedder

        return load_embedder(model)


def _read(
    files: Sequence[Path],
    embedder: Embedder,
    id_column: str,
    text_column: list[str] | None,
    max_tokens: int | None,
) -> tuple[list[Document], list[Problem]]:
    """The files' documents and what is wrong with them."""
    from lensbench.quantized.rag.documents import Reading, read_documents

    limit = embedder.limit
    if max_tokens is not None and max_tokens > limit:
        raise typer.BadParameter(f"{embedder.name} takes at most {limit} tokens, not {max_tokens}")
    reading = Reading(
        embedder.count, max_tokens or limit, id_column, text_columns=tuple(text_column or ())
    )
    problems: list[Problem] = []
    with _status("reading"):
        documents = read_documents(files, reading, problems)
    if not documents:
        from lensbench.errors import InputProblems

        raise InputProblems(problems)
    return documents, problems


def _add(index: Index, documents: Sequence[Document], delete_missing: bool) -> Changes:
    from lensbench.cli.console import batch_progress

    with batch_progress() as progress:
        return index.add(documents, delete_missing, progress)


def _finish(where: str, changes: Changes, problems: Sequence[Problem]) -> None:
    from lensbench.cli.console import literal, messages
    from lensbench.quantized.rag.database import find_place

    _show_problems(problems)
    counts = ", ".join(f"{count:,} {name}" for name, count in vars(changes).items())
    messages.print(f"{literal(find_place(where))}: {counts}", highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(1)


def _show_problems(problems: Sequence[Problem]) -> None:
    from lensbench.cli.console import literal, messages

    for problem in problems:
        messages.print(f"[yellow]left out:[/] {literal(problem)}", highlight=False)


def _filters(having: Sequence[str] | None) -> dict[str, str] | None:
    pairs = [text.partition("=") for text in having or ()]
    wrong = ["".join(pair) for pair in pairs if not pair[0] or not pair[1]]
    if wrong:
        raise typer.BadParameter(f"{', '.join(wrong)}: write NAME=VALUE", param_hint="--where")
    return {name: value for name, _, value in pairs} or None


def measures(meaning: Sequence[Placed], words: Sequence[Placed]) -> list[dict[str, Any]]:
    """Each measure under both searches, and the paired difference, with 95 % intervals."""
    from lensbench.quantized.rag.quality import DEEPEST, DEPTHS
    from lensbench.stats.bootstrap import clustered_bootstrap

    def values(placed: Sequence[Placed]) -> dict[str, list[float]]:
        recall = {f"recall@{k}": [float(one.within(k)) for one in placed] for k in DEPTHS}
        return {**recall, f"MRR@{DEEPEST}": [one.reciprocal_rank for one in placed]}

    ours, theirs = values(meaning), values(words)
    rows = []
    for name in ours:
        difference = [a - b for a, b in zip(ours[name], theirs[name], strict=True)]
        kinds = {"meaning": ours[name], "words": theirs[name], "difference": difference}
        estimates = {kind: clustered_bootstrap(of) for kind, of in kinds.items()}
        rows.append({"measure": name} | {kind: vars(e) for kind, e in estimates.items()})
    return rows


def _show_measures(found: Sequence[dict[str, Any]], n_questions: int) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from lensbench.cli.console import results

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("measure")
    for heading in ("by meaning", "by words (tf-idf)", "difference"):
        table.add_column(heading, justify="right")
    for row in found:
        cells = [measure_cell(row[kind]) for kind in ("meaning", "words", "difference")]
        table.add_row(row["measure"], *cells)
    results.print(table)
    results.print(f"{n_questions} questions; 95 % intervals", highlight=False)


def measure_cell(estimate: dict[str, Any]) -> str:
    """An estimate with its interval, in words."""
    if estimate["low"] == estimate["high"]:  # no interval, or no spread to make one from
        return f"{estimate['value']:.2f}"
    return f"{estimate['value']:.2f} ({estimate['low']:.2f} to {estimate['high']:.2f})"
