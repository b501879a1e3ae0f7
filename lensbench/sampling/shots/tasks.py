"""Small tasks with answers, and the prompts that ask them with and without examples."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from lensbench.prompts.words import words_of
from lensbench.quantized.generation.generate import row_seed
from lensbench.records.schema.text.sampling import SHOTS

DATA = resources.files("lensbench").joinpath("sampling", "data", "tasks.toml")


@dataclass(frozen=True)
class Item:
    """An input with its answer; `spellings` are all that count, the answer among them."""

    given: str
    spellings: tuple[str, ...]

    @property
    def answer(self) -> str:
        """As examples show it."""
        return self.spellings[0]


@dataclass(frozen=True)
class Task:
    """What is to be done with an input. `labels`: all answers there are; empty: any word."""

    name: str
    instruction: str
    items: tuple[Item, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """An item as it is asked: the text, and whether it goes through the chat template."""

    task: Task
    item: Item
    text: str
    chat: bool


@cache
def shipped_tasks() -> tuple[Task, ...]:
    """The tasks that travel with lensbench."""
    content = tomllib.loads(DATA.read_text(encoding="utf-8"))
    return tuple(
        Task(
            name,
            own["instruction"],
            tuple(Item(given, tuple(spellings)) for given, *spellings in own["items"]),
            tuple(own.get("labels", ())),
        )
        for name, own in content.items()
    )


def asked(task: Task, item: Item, condition: str, shots: int, seed: int) -> Asked:
    """An item under a condition of `SHOTS`.

    Examples are other items of the task, drawn for each item anew; with `shuffled` they keep their
    inputs and exchange their answers.
    """
    parts = condition.split("+")
    lines = [task.instruction] if "instruction" in parts else []
    if {"examples", "shuffled"} & {*parts}:
        chosen = examples(task, item, shots, seed)
        answers = [one.answer for one in chosen]
        if "shuffled" in parts:
            answers = exchanged(answers)
        lines += [_shown(one.given, said) for one, said in zip(chosen, answers, strict=True)]
    lines.append(_shown(item.given))
    return Asked(task, item, "\n\n".join(lines), "chat" in parts)


def _shown(given: str, answer: str | None = None) -> str:
    return f"Input: {given}\nOutput:" + ("" if answer is None else f" {answer}")


def examples(task: Task, item: Item, n: int, seed: int) -> list[Item]:
    """So many other items of a task in an order that seed and item decide.

    Of a task with labels each label stands for as many, up to one.
    """
    rng = np.random.default_rng(row_seed(seed, f"{task.name}:{item.given}"))
    others = [one for one in task.items if one != item]
    order = [others[i] for i in rng.permutation(len(others))]
    if not task.labels:
        return order[:n]
    queues = [[one for one in order if one.answer == label] for label in task.labels]
    turns = [queue[i] for i in range(n) for queue in queues if i < len(queue)]
    return [turns[i] for i in rng.permutation(min(n, len(turns)))]


def exchanged(answers: Sequence[str]) -> list[str]:
    """The answers moved on by the step at which fewest stay where they were, the first of such."""
    turned = [[*answers[step:], *answers[:step]] for step in range(len(answers))]
    return min(turned, key=lambda one: sum(a == b for a, b in zip(one, answers, strict=True)))


def answered(asked_of: Asked, response: str) -> tuple[str, bool, bool]:
    """What a response says in its first line, whether that is the answer, and whether it names it.

    Case and punctuation count for nothing. A response names the answer where it has the words of it
    and of no other label.
    """
    said = next((line for line in response.split("\n") if line.strip()), "").strip()
    words = _words(said)
    right = any(words == _words(one) for one in asked_of.item.spellings)
    others = [label for label in asked_of.task.labels if label not in asked_of.item.spellings]
    named = any(_holds(words, one) for one in asked_of.item.spellings)
    return said, right, named and not any(_holds(words, one) for one in others)


def _words(text: str) -> list[str]:
    return [text[start:end].casefold() for start, end in words_of(text)]


def _holds(words: Sequence[str], answer: str) -> bool:
    wanted = _words(answer)
    return any(list(words[i : i + len(wanted)]) == wanted for i in range(len(words)))


def conditions(chat: bool) -> list[str]:
    """How each item is asked; with a chat template also through it."""
    return [name for name in SHOTS if chat or "chat" not in name]
