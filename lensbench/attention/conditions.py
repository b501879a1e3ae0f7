"""Conditions: what the scores are measured on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lensbench.attention.compared.nulls import shuffled
from lensbench.attention.settings import AttentionSettings
from lensbench.models.model import LensModel
from lensbench.prompts.encode import EncodedPrompt
from lensbench.records.schema.attention import null_of

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
    `permuted`: patterns are dealt out again among their keys. `untrained`: a model with weights
    drawn anew reads it.
    """

    texts: Texts
    of_prompts: bool = True
    permuted: bool = False
    untrained: bool = False


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


def seed_of(text: Text, settings: AttentionSettings) -> tuple[int, int]:
    """Of what is drawn for a text: its own, whatever else is read."""
    return settings.seed, zlib.crc32(text.prompt_id.encode())


def in_random_order(texts: Texts) -> Texts:
    """The same texts, shuffled."""

    def made(model: LensModel, own: Sequence[Text], settings: AttentionSettings) -> list[Text]:
        return [
            Text(text.prompt_id, tuple(shuffled(text.token_ids, seed_of(text, settings))))
            for text in texts(model, own, settings)
        ]

    return made


# To add a condition: a function like these, a line here and one in records/schema/attention.py.
READ: dict[str, Condition] = {
    "text": Condition(lambda model, texts, settings: list(texts)),
    "repeated": Condition(repeated, of_prompts=False),
}
NULLS: dict[str, Callable[[Condition], Condition]] = {
    "random": lambda of: replace(of, permuted=True),
    "shuffled": lambda of: replace(of, texts=in_random_order(of.texts)),
    "untrained": lambda of: replace(of, untrained=True),
}
CONDITIONS: dict[str, Condition] = READ | {
    null_of(name, null): make(of) for name, of in READ.items() for null, make in NULLS.items()
}
