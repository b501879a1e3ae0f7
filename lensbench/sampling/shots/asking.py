"""Asking: the greedy answer of each item of a task, beside what counts as right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lensbench.errors import Problem
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.quantized.style import ask, prompt_ids
from lensbench.sampling.shots.tasks import Asked, Task, answered, asked

LONGEST = 10  # tokens of an answer


def answers(
    model: AdaptedModel, task: Task, condition: str, shots: int, seed: int
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """All items of a task under one condition, and what was skipped.

    Rows of the table `shots`, without the model.

    Raises GateError where the model gives other answers in a padded batch than to each alone.
    """
    fits, problems = given_items(model, task, condition, shots, seed)
    return (_rows(model, condition, fits) if fits else []), problems


def given_items(
    model: AdaptedModel, task: Task, condition: str, shots: int, seed: int
) -> tuple[list[tuple[Asked, list[int]]], list[Problem]]:
    """The items of a task with their ids, and those that do not fit."""
    items = [asked(task, item, condition, shots, seed) for item in task.items]
    given = [_ids(model, one) for one in items]
    room = model.n_ctx - LONGEST
    fits = [(one, ids) for one, ids in zip(items, given, strict=True) if len(ids) <= room]
    problems = [
        Problem(
            f"task {task.name}, {one.item.given}",
            f"{condition}: {len(ids):,} tokens and {LONGEST} new ones, the context holds "
            f"{model.n_ctx:,}",
            "Ask with fewer examples.",
        )
        for one, ids in zip(items, given, strict=True)
        if len(ids) > room
    ]
    return fits, problems


def _rows(
    model: AdaptedModel, condition: str, items: Sequence[tuple[Asked, list[int]]]
) -> list[dict[str, Any]]:
    made = generate(model, [ids for _, ids in items], Decoding(max_new_tokens=LONGEST))
    rows = []
    for (one, ids), found in zip(items, made, strict=True):
        said, right, named = answered(one, found.text)
        rows.append(
            {
                "task": one.task.name,
                "condition": condition,
                "given": one.item.given,
                "answer": one.item.answer,
                "said": said,
                "is_answer": right,
                "names_answer": named,
                "n_prompt_tokens": len(ids),
            }
        )
    return rows


def _ids(model: AdaptedModel, one: Asked) -> list[int]:
    question = ask(model.tokenizer, "chat" if one.chat else "none", one.text)
    return prompt_ids(model.tokenizer, question)
