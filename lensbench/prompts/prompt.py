"""A prompt: what is asked and what is expected, before any tokenizer has seen it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Prompt:
    """One row of a prompt set.

    `category` is a word a model may say before the answer ("city" before "Berlin").
    `control_of`, `paraphrase_of` and `reverse_of` hold the id of the row this one belongs to; a
    control asks about another subject, so its `answer` is wrong for it on purpose.
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

    @property
    def is_base(self) -> bool:
        """Neither control, paraphrase nor reverse: the rows that headlines are made from."""
        return self.control_of is None and self.paraphrase_of is None and self.reverse_of is None


def as_prompts(prompts: str | Prompt | Sequence[str | Prompt]) -> list[Prompt]:
    """Strings and Prompts as a list of Prompts; bare strings get the ids p1, p2, ..."""
    items = [prompts] if isinstance(prompts, str | Prompt) else list(prompts)
    return [
        item if isinstance(item, Prompt) else Prompt(id=f"p{i}", prompt=item)
        for i, item in enumerate(items, start=1)
    ]


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
    return [
        prompt
        for prompt in prompts
        if (prompt.control_of or prompt.paraphrase_of or prompt.reverse_of or prompt.id) in chosen
    ]
