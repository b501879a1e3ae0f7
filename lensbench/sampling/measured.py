"""What is measured of a model: each prompt under all settings, each task under each condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import pyarrow as pa

from lensbench.prompts.encode import EncodedPrompt, TokenText
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.text.sampling import ASKED, FIRST, GREEDY, SETS, SETTINGS, TEXTS
from lensbench.sampling.diversity import distinct, repeated, self_bleu, words
from lensbench.sampling.effects import effects
from lensbench.sampling.model import read
from lensbench.sampling.settings import PUBLISHED, Setting
from lensbench.sampling.shots.asking import answers
from lensbench.sampling.shots.tasks import Task
from lensbench.sampling.writing import Written, cache_error_bits, uniforms, write

ERROR = "cache_error_bits"  # note of a part: the worst error of what was written there

Item = tuple[str, str]  # "prompt" and its id, or a task and a condition
PROMPT = "prompt"


@dataclass(frozen=True)
class Drawing:
    """A model, what it is given, and how it is drawn from.

    `written` are the settings whose texts are wanted, of the prompts in `continued`.
    """

    name: str  # of the model, as it was asked for
    model: AdaptedModel
    prompts: Mapping[str, EncodedPrompt]
    settings: Sequence[Setting]
    written: Sequence[Setting]
    continued: frozenset[str]
    draws: int
    max_new_tokens: int
    tasks: Sequence[Task]
    conditions: Sequence[str]
    shots: int
    seed: int

    @property
    def items(self) -> list[Item]:
        """The jobs, in order: prompts, then tasks, the conditions of each one after another."""
        asked = [(task.name, condition) for task in self.tasks for condition in self.conditions]
        return [*((PROMPT, prompt_id) for prompt_id in self.prompts), *asked]


def measure(context: Drawing, job: Job[Item]) -> Part:
    """One of `Drawing.items`."""
    kind, name = job.item
    if kind == PROMPT:
        return _prompt(context, name)
    (task,) = [task for task in context.tasks if task.name == kind]
    rows, problems = answers(context.model, task, name, context.shots, context.seed)
    return Part(
        {ASKED.name: ASKED.of_rows({"model": context.name} | row for row in rows)}, problems
    )


def settings_table(context: Drawing) -> pa.Table:
    """The settings of a run."""
    names = {setting.name for setting in context.written}
    return SETTINGS.of_rows(
        {"setting": one.name, "is_published": one.name in PUBLISHED}
        | {"is_written": one.name in names, **one.settings()}
        for one in context.settings
    )


def _prompt(context: Drawing, prompt_id: str) -> Part:
    """One pass over the prompt; from there every setting's distribution, and its texts."""
    ids = context.prompts[prompt_id].token_ids
    follow = prompt_id in context.continued
    start = read(context.model, ids, follow)
    shown = TokenText(context.model.tokenizer)
    common = {"model": context.name, "prompt_id": prompt_id}
    found = effects(start.logits, ids, context.settings)
    first = [common | one.columns(shown(one.top_token)) for one in found]
    made = {FIRST.name: FIRST.of_rows(first)}
    if not follow:
        return Part(made)
    numbers = uniforms(context.seed, prompt_id, context.draws, context.max_new_tokens)
    texts = write(context.model, start, context.written, numbers)
    made[TEXTS.name] = TEXTS.of_rows(common | text_row(text) for text in texts)
    made[SETS.name] = SETS.of_rows(
        common | set_row(own, context.draws) for own in _by_setting(texts, context.written)
    )
    checked = next((one for one in texts if not one.setting.startswith(GREEDY)), texts[0])
    return Part(made, notes={ERROR: cache_error_bits(context.model, ids, checked)})


def _by_setting(texts: Sequence[Written], settings: Sequence[Setting]) -> list[list[Written]]:
    return [[text for text in texts if text.setting == one.name] for one in settings]


def text_row(text: Written) -> dict[str, Any]:
    """A row of the table `sampled_texts`, without whose it is."""
    own = words(text.text)
    return {
        "setting": text.setting,
        "draw": text.draw,
        "text": text.text,
        "n_tokens": len(text.token_ids),
        "n_words": len(own),
        "finish_reason": text.finish_reason,
        "bits": sum(text.bits),
        "repeated_share": repeated(own),
    }


def set_row(texts: Sequence[Written], draws: int) -> dict[str, Any]:
    """A row of the table `sampled_sets`; one text of several draws counts as so many."""
    every = list(texts) * (draws // len(texts))
    own = [words(text.text) for text in every]
    shares = [share for share in map(repeated, own) if share is not None]
    return {
        "setting": texts[0].setting,
        "n_texts": len(every),
        "n_tokens": sum(len(text.token_ids) for text in every),
        "bits": sum(sum(text.bits) for text in every),
        "distinct_1_share": distinct(own, 1),
        "distinct_2_share": distinct(own, 2),
        "self_bleu": self_bleu([text.text for text in every]),
        "repeated_share": fmean(shares) if shares else None,
    }
