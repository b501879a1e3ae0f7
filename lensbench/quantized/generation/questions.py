"""The questions of a run: a user's file, row by row, with what was retrieved for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lensbench.errors import InputProblems, Problem
from lensbench.prompts.encode import NO_ROW, without_row
from lensbench.prompts.rows import place, read_rows, sound_rows
from lensbench.quantized.generation.context import Fitted, fit, fit_to
from lensbench.quantized.generation.controls import Control, substitutes
from lensbench.quantized.style import Style

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel
    from lensbench.quantized.rag.index import Hit

_BETWEEN = "\n\n"  # documents of one context


@dataclass(frozen=True)
class Asked:
    """One good row of the user's file. `others` are its further cells, by column."""

    id: str
    prompt: str
    where: str
    others: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Retrieved:
    """What an index found for every question, best first, and what the index is.

    With a control, `substitutes` are the documents that take the place of a question's hits.
    """

    hits: list[list[Hit]]
    facts: dict[str, Any]
    control: Control | None = None
    substitutes: list[list[Hit]] = field(default_factory=list)


@dataclass(frozen=True)
class Ready:
    """A question as the model gets it. `hits` is None without retrieval.

    Under a control they are the documents that were put in, and `length_difference` says by how
    many tokens the prompt is longer than with what was retrieved.
    """

    asked: Asked
    fitted: Fitted
    hits: list[Hit] | None = None
    control: Control | None = None
    length_difference: int | None = None


def read_questions(
    path: Path, limit: int | None = None, reserved: Sequence[str] = ()
) -> tuple[list[Asked], list[Problem]]:
    """The questions of a .csv, .jsonl or .json file (columns `id` and `prompt`), and its bad rows.

    Raises InputProblems when the file cannot be read, has no good row, or has a column named as
    one of `reserved`.
    """
    problems: list[Problem] = []
    rows = read_rows(path, path.name, problems, ("id", "prompt"))
    asked = []
    for line, cells in sound_rows(rows, path.name, problems, ("prompt",)):
        others = {key: cell for key, cell in cells.items() if key not in ("id", "prompt")}
        where = place(path.name, line, cells["id"])
        asked.append(Asked(cells["id"], cells["prompt"], where, others))
    taken = sorted({column for row in asked for column in row.others} & set(reserved))
    if taken:
        what = f"the column(s) {', '.join(taken)} are also written by this command"
        raise InputProblems([Problem(path.name, what, "Give them other names.")])
    if not asked:
        nothing = Problem(path.name, "no row of it can be asked", "Write at least one good row.")
        raise InputProblems([*problems, nothing])
    return asked[:limit], problems


def retrieve(
    index_at: str, questions: Sequence[Asked], top_k: int, control: Control | None = None
) -> Retrieved:
    """Search an index for every question. Raises what the index and `substitutes` raise."""
    from lensbench.quantized.rag.index import open_index

    prompts = [question.prompt for question in questions]
    with open_index(index_at) as index:
        hits = index.search(prompts, top_k)
        others = substitutes(control, prompts, hits, index.embedder) if control else []
        return Retrieved(hits, index.facts(), control, others)


def prepare(
    model: AdaptedModel,
    style: Style,
    questions: Sequence[Asked],
    retrieved: Retrieved | None,
    max_new_tokens: int,
) -> tuple[list[Ready], list[Problem]]:
    """Every question that fits the model's window, as tokens; the others are problems."""
    room = model.n_ctx - max_new_tokens
    ready, problems = [], []
    for i, asked in enumerate(questions):
        hits = retrieved.hits[i] if retrieved is not None else None
        context = _joined(hits) if hits else None
        one = Ready(asked, fit(model.tokenizer, style, asked.prompt, context, room), hits)
        fitted = one.fitted
        missing = without_row(fitted.token_ids, model.d_vocab)
        if missing is not None:
            problems.append(Problem(asked.where, missing, NO_ROW, asked.id))
        elif 0 < len(fitted.token_ids) <= room:
            if retrieved is not None and retrieved.control is not None:
                others = retrieved.substitutes[i]
                one = _controlled(model, style, one, retrieved.control, others)
            ready.append(one)
        else:
            problems.append(_unfit(asked, len(fitted.token_ids), max_new_tokens, model.n_ctx))
    return ready, problems


def _controlled(
    model: AdaptedModel, style: Style, ready: Ready, control: Control, others: Sequence[Hit]
) -> Ready:
    """The question with other documents, as many tokens long as with its own."""
    real = ready.fitted
    if real.question.context is None:  # no token of it had room
        return replace(ready, hits=[], control=control, length_difference=0)
    text, n_tokens = _joined(others), len(real.token_ids)
    put = fit_to(model.tokenizer, style, ready.asked.prompt, text, n_tokens)
    start, end = put.question.context or (0, 0)
    starts = accumulate((len(hit.text) + len(_BETWEEN) for hit in others), initial=0)
    hits = [hit for hit, first in zip(others, starts, strict=False) if first < end - start]
    fitted = replace(put, context_tokens_cut=real.context_tokens_cut)
    return Ready(ready.asked, fitted, hits, control, len(put.token_ids) - n_tokens)


def _joined(hits: Sequence[Hit]) -> str:
    """Documents as one context."""
    return _BETWEEN.join(hit.text for hit in hits)


def _unfit(asked: Asked, n_tokens: int, max_new_tokens: int, n_ctx: int) -> Problem:
    if n_tokens == 0:
        what, remedy = "the prompt has no tokens for this tokenizer", "Write something else."
    else:
        what = f"{n_tokens:,} prompt tokens and up to {max_new_tokens:,} new ones exceed the "
        what += f"model's window of {n_ctx:,}"
        remedy = "Shorten it, or lower --max-new-tokens."
    return Problem(asked.where, what, remedy, asked.id)
