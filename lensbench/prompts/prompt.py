"""A prompt: what is asked and what is expected, before any tokenizer has seen it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lensbench.errors import InputProblems, Problem

LINKS = ("control_of", "paraphrase_of", "reverse_of")  # to the row that another one belongs to


@dataclass(frozen=True)
class Prompt:
    """One row of a prompt set.

    `category` is a word a model may say before the answer ("city" before "Berlin").
    `control_of`, `paraphrase_of` and `reverse_of` hold the id of the row this one belongs to; a
    control asks about another subject, so its `answer` is wrong for it on purpose. `token_ids`, if
    given, stand in place of the text: they go to the model as they are, with no BOS but their own.
    """

    id: str
    prompt: str
    relation: str = "prompt"
    answer: str | None = None
    category: str | None = None
    subject: str | None = None
    control_of: str | None = None
    paraphrase_of: str | None = None
    reverse_of: str | None = None
    row: int | None = None  # line of the file it came from, for messages
    extra: dict[str, str] = field(default_factory=dict)
    token_ids: tuple[int, ...] | None = None

    @property
    def base_id(self) -> str:
        """The row that this one belongs to: itself, or the one that it is made from."""
        return self.control_of or self.paraphrase_of or self.reverse_of or self.id

    @property
    def is_base(self) -> bool:
        """Neither control, paraphrase nor reverse: the rows that headlines are made from."""
        return all(getattr(self, link) is None for link in LINKS)


class _Set(Protocol):
    """A PromptSet."""

    @property
    def prompts(self) -> Sequence[Prompt]: ...


One = str | Prompt | Sequence[int]  # a prompt: its text, itself, or token ids (also an array)
Prompts = One | Sequence[One] | _Set


def as_prompts(given: Prompts) -> list[Prompt]:
    """One prompt or many, as a list of Prompts; those without an id get p1, p2, ...

    Raises InputProblems that name all that cannot be a prompt, and an id that stands twice.
    """
    items = [given] if is_one(given) else _listed(given)
    problems = [
        Problem(f"prompts, item {i}", f"{type(item).__name__} is no prompt", _REMEDY)
        for i, item in enumerate(items, start=1)
        if not is_one(item)
    ]
    if problems:
        raise InputProblems(problems)
    prompts = [_prompt(f"p{i}", item) for i, item in enumerate(items, start=1)]
    ids = [prompt.id for prompt in prompts]
    if twice := sorted({item for item in ids if ids.count(item) > 1}):
        what = f"the id {', '.join(twice)} stands twice"
        raise InputProblems([Problem("prompts", what, "Give each prompt an id of its own.")])
    return prompts


def some_prompts(given: Prompts) -> list[Prompt]:
    """The same, before a model is loaded for them: InputProblems too where not one has any text."""
    prompts = as_prompts(given)
    if not any(prompt.token_ids or prompt.prompt.strip() for prompt in prompts):
        what = "it is empty" if len(prompts) == 1 else "not one of them has any text"
        raise InputProblems([Problem("prompts", what, "Give a text.")])
    return prompts


def is_one(given: object) -> bool:
    """Whether this is one prompt, of whatever kind."""
    return isinstance(given, str | Prompt) or _is_token_ids(_plain(given))


_REMEDY = "Give a text, token ids or a Prompt, or a list of them."


def _listed(given: Any) -> list[Any]:
    many = _plain(getattr(given, "prompts", given))
    if not isinstance(many, Sequence | Iterator) or isinstance(many, bytes):
        raise InputProblems([Problem("prompts", f"{type(given).__name__} is no prompt", _REMEDY)])
    return list(many)


def _plain(given: Any) -> Any:
    """An array's numbers as lists."""
    return given.tolist() if hasattr(given, "tolist") else given


def _is_token_ids(given: object) -> bool:
    return (
        isinstance(given, Sequence)
        and not isinstance(given, str | bytes)
        and len(given) > 0
        and all(hasattr(item, "__index__") and not isinstance(item, bool) for item in given)
    )


def _prompt(name: str, item: Any) -> Prompt:
    if isinstance(item, Prompt):
        return item
    if isinstance(item, str):
        return Prompt(id=name, prompt=item)
    return Prompt(id=name, prompt="", token_ids=tuple(int(token) for token in _plain(item)))


def choose(prompts: Sequence[Prompt], limit: int | None) -> list[Prompt]:
    """At most `limit` base prompts, spread evenly over relations, with all rows that go with them.

    Round robin over relations in the set's order, so that every relation keeps its share and a
    larger limit only ever adds prompts. None takes all.
    """
    if limit is None:
        return list(prompts)
    queues: dict[str, list[str]] = {}
    for prompt in prompts:
        if prompt.is_base:
            queues.setdefault(prompt.relation, []).append(prompt.id)
    rounds = max((len(queue) for queue in queues.values()), default=0)
    order = [queue[i] for i in range(rounds) for queue in queues.values() if i < len(queue)]
    chosen = set(order[:limit])
    return [prompt for prompt in prompts if prompt.base_id in chosen]


def added(prompts: Sequence[Prompt], limits: Sequence[int | None]) -> list[list[Prompt]]:
    """For each limit, none smaller than the one before, the prompts that it adds to those."""
    seen: set[str] = set()
    stages = []
    for limit in limits:
        stages.append([prompt for prompt in choose(prompts, limit) if prompt.id not in seen])
        seen |= {prompt.id for prompt in stages[-1]}
    return stages
