"""Conditions: what the scores are measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lensbench.attention.settings import AttentionSettings
from lensbench.models.model import LensModel
from lensbench.prompts.encode import EncodedPrompt

REPEATS = 4  # times that random tokens stand in a sequence (Olsson et al. 2022)


@dataclass(frozen=True)
class Text:
    """Tokens that a model reads, under a prompt's id."""

    prompt_id: str
    token_ids: tuple[int, ...]


Texts = Callable[[LensModel, Sequence[Text], AttentionSettings], list[Text]]


@dataclass(frozen=True)
class Condition:
    """What is read in place of the prompts' own tokens.

    `of_prompts`: each text is made of one prompt; otherwise they are the same whatever the prompts.
    """

    texts: Texts
    of_prompts: bool = True


def own_texts(encoded: Sequence[EncodedPrompt]) -> list[Text]:
    """The prompts' own tokens."""
    return [Text(item.prompt.id, item.token_ids) for item in encoded]


def repeated(model: LensModel, _: Sequence[Text], settings: AttentionSettings) -> list[Text]:
    """Random tokens, each sequence `REPEATS` times over, after a first token if texts have one.

    Drawn evenly from all tokens but the special ones, sequence by sequence.
    """
    tokenizer = model.tokenizer
    special = {*tokenizer.all_special_ids}
    tokens = [i for i in range(min(len(tokenizer), model.d_vocab)) if i not in special]
    first = tokenizer("a").input_ids[:1]
    start = first if first == [tokenizer.bos_token_id] else []
    return [
        Text(f"repeated-{number + 1}", (*start, *_drawn(tokens, settings, number) * REPEATS))
        for number in range(settings.n_repeated)
    ]


def _drawn(tokens: Sequence[int], settings: AttentionSettings, number: int) -> tuple[int, ...]:
    chance = np.random.default_rng([settings.seed, number])
    return tuple(chance.choice(tokens, settings.repeat_tokens, replace=True).tolist())


# To add a condition: a function like this, a line here and one in records/schema/attention.py.
CONDITIONS: dict[str, Condition] = {
    "text": Condition(lambda model, texts, settings: list(texts)),
    "repeated": Condition(repeated, of_prompts=False),
}
