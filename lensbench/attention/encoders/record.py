"""A record of an encoder's heads: its jobs, and what each reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float

from lensbench.again import Sent
from lensbench.attention.conditions import Text, own_texts
from lensbench.attention.encoders.gate import row_check, row_error
from lensbench.attention.encoders.scores import LEAST_TOKENS, Places, encoder_scores
from lensbench.attention.encoders.source import EncoderSource
from lensbench.attention.patterns import Seen
from lensbench.attention.phenomena.asking import UNTRAINED, Asking, ask
from lensbench.attention.record import HeadBatch, Reading
from lensbench.attention.settings import EncoderSettings
from lensbench.errors import Problem
from lensbench.models.text_encoder import untrained_encoder
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt
from lensbench.prompts.prompt import Prompt
from lensbench.prompts.sets import PromptSet
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.encoders import ENCODER_HEADS, ENCODER_SCORES


@dataclass(frozen=True)
class EncoderReader(Sent):
    """What readings are made with."""

    source: EncoderSource
    settings: EncoderSettings

    @cached_property
    def untrained(self) -> EncoderSource:
        """The same with weights drawn anew, as soon as it is read: a second model in memory."""
        return EncoderSource(untrained_encoder(self.source.model, self.settings.seed))


def bare(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts without what is to follow them: an encoder says no next token."""
    return [replace(prompt, answer=None, category=None) for prompt in prompts]


def bare_set(prompts: PromptSet) -> PromptSet:
    """A set of such prompts."""
    return replace(prompts, prompts=bare(prompts.prompts))


def readable(
    source: EncoderSource, encoded: Sequence[EncodedPrompt]
) -> tuple[list[EncodedPrompt], list[Problem]]:
    """Texts of two or more tokens of their own, between the special ones; what others lack."""
    found, problems = list[EncodedPrompt](), list[Problem]()
    for item in encoded:
        places = Places.of(source.model.tokenizer, item.token_ids)
        if not places.framed:
            what = "it does not begin and end with a special token, such as [CLS] and [SEP]"
            remedy = "Give the text, or ids with those tokens."
        elif len(item.token_ids) < LEAST_TOKENS:
            what = "it has fewer than two tokens of its own, so no neighbours"
            remedy = "Give a longer one."
        else:
            found.append(item)
            continue
        problems.append(Problem(f"prompt {item.prompt.id}", what, remedy, item.prompt.id))
    return found, problems


def plan_texts(
    settings: EncoderSettings,
    encoded: Sequence[EncodedPrompt],
    stages: Sequence[Sequence[Prompt]],
) -> list[list[Reading]]:
    """At each width of a record, what it adds: batches of its texts, under every condition."""
    plan = []
    for stage in stages:
        ids = {prompt.id for prompt in stage}
        texts = own_texts([item for item in encoded if item.prompt.id in ids])
        batches = plan_batches([len(text.token_ids) for text in texts], settings.batch_tokens)
        plan.append(
            [
                Reading(condition, tuple(texts[item] for item in items))
                for condition in settings.conditions
                for items in batches
            ]
        )
    return plan


def texts_of(settings: EncoderSettings, encoded: Sequence[EncodedPrompt]) -> dict[str, list[Text]]:
    """What each condition reads, in the order of its rows."""
    return {condition: own_texts(encoded) for condition in settings.conditions}


def encoder_job(reader: EncoderReader, job: Job[Reading | Asking]) -> Part:
    """A batch that is read, or sentences that are asked about."""
    if isinstance(job.item, Reading):
        return read_texts(reader, job.item)
    source = reader.untrained if job.item.who == UNTRAINED else reader.source
    name = reader.source.model.name
    return ask(source, row_check, name, job.item, reader.settings.weightings)


def read_texts(reader: EncoderReader, reading: Reading) -> Part:
    """One batch: the scores of every head, and whole patterns where they are kept."""
    settings, model = reader.settings, reader.source.model
    every = [Places.of(model.tokenizer, text.token_ids) for text in reading.texts]

    def score(seen: Seen) -> dict[str, Float[np.ndarray, "score head"]]:
        found = {}
        for weighting in settings.weightings:
            scores = encoder_scores(seen.weighted(weighting), every[seen.number])
            found[weighting] = np.stack([scores[name].numpy() for name in ENCODER_SCORES])
        return found

    kept = settings.keep if reading.condition == "text" else ()
    batch = HeadBatch(
        model,
        reading,
        ENCODER_HEADS,
        score,
        lambda seen: row_error(seen.pattern),
        kept,
        both_ways=True,
    )
    source = reader.untrained if reading.condition == "untrained" else reader.source
    source.watch([text.token_ids for text in reading.texts], batch.see, settings.moved)
    return batch.part(bool(settings.keep))
