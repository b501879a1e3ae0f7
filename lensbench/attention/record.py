"""An attention record: its jobs, what each reads, and the tables of all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int
from torch import Tensor

from lensbench.attention.causal.tables import Ablating, Ablator
from lensbench.attention.compared.nulls import permuted, random_keys
from lensbench.attention.conditions import CONDITIONS, Text, own_texts, seed_of
from lensbench.attention.facts import Facts
from lensbench.attention.gate import ERROR, not_finite, row_error_of
from lensbench.attention.patterns import Seen, Source
from lensbench.attention.phenomena.asking import UNTRAINED, Asking, ask
from lensbench.attention.phenomena.without import Losing, word_losses
from lensbench.attention.scores import LEAST_TOKENS, Scorer
from lensbench.attention.settings import AttentionSettings
from lensbench.errors import Problem
from lensbench.lens.gate import worst
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.models.untrained import untrained
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt
from lensbench.prompts.prompt import Prompt
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.attention import HEADS, PATTERNS, SCORES


@dataclass(frozen=True)
class Reading:
    """One batch of one condition."""

    condition: str
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Reader:
    """What readings are made with."""

    source: Source
    settings: AttentionSettings
    ablator: Ablator | None = None
    of_words: Ablator | None = None  # of sentences whose words are asked about

    @property
    def model(self) -> LensModel:
        """The model that is read."""
        return self.source.model

    @cached_property
    def untrained(self) -> Source:
        """The same with weights drawn anew, as soon as it is read: a second model in memory."""
        return Source(untrained(self.model, self.settings.seed))

    def source_of(self, condition: str) -> Source:
        """Who reads a condition."""
        return self.untrained if CONDITIONS[condition].untrained else self.source


def long_enough(encoded: Sequence[EncodedPrompt]) -> tuple[list[EncodedPrompt], list[Problem]]:
    """Prompts of `LEAST_TOKENS` or more; of the others a head's choice cannot be told."""
    short = [item for item in encoded if len(item.token_ids) < LEAST_TOKENS]
    problems = [
        Problem(
            f"prompt {item.prompt.id}",
            f"it is {len(item.token_ids)} token(s): a head can look at nothing but those",
            f"Give {LEAST_TOKENS} tokens or more.",
            item.prompt.id,
        )
        for item in short
    ]
    return [item for item in encoded if len(item.token_ids) >= LEAST_TOKENS], problems


def not_kept(settings: AttentionSettings, encoded: Sequence[EncodedPrompt]) -> list[Problem]:
    """Prompts whose patterns are wanted, but that are not read."""
    there = {item.prompt.id for item in encoded} if "text" in settings.conditions else set()
    what, remedy = "its pattern is not kept: it is not read", "Raise --limit, or name another."
    return [Problem(f"prompt {i}", what, remedy, i) for i in settings.keep if i not in there]


def condition_texts(
    reader: Reader, encoded: Sequence[EncodedPrompt]
) -> tuple[dict[str, list[Text]], list[Problem]]:
    """What each condition reads; texts over the context are problems."""
    found, problems, n_ctx = dict[str, list[Text]](), list[Problem](), reader.model.n_ctx
    for name in reader.settings.all_conditions:
        texts = CONDITIONS[name].texts(reader.model, own_texts(encoded), reader.settings)
        found[name] = [text for text in texts if len(text.token_ids) <= n_ctx]
        if over := [text for text in texts if len(text.token_ids) > n_ctx]:
            n = max(len(text.token_ids) for text in over)
            what = f"{len(over)} texts of {n:,} tokens, the model's context holds {n_ctx:,}"
            remedy = f"Ask for fewer --repeat-tokens, {(n_ctx - 1) // 4} at most."
            problems.append(Problem(f"condition {name}", what, remedy))
    return found, problems


def plan_readings(
    reader: Reader, texts: dict[str, list[Text]], stages: Sequence[Sequence[Prompt]]
) -> list[list[Reading]]:
    """At each width of a record, what it adds; what is made of no prompt is read at the first."""
    plan = []
    for number, stage in enumerate(stages):
        ids = {prompt.id for prompt in stage}
        readings = list[Reading]()
        for name, own in texts.items():
            if CONDITIONS[name].of_prompts:
                own = [text for text in own if text.prompt_id in ids]
            elif number:
                continue
            readings += _batched(reader, name, own)
        plan.append(readings)
    return plan


def _batched(reader: Reader, condition: str, texts: Sequence[Text]) -> Iterator[Reading]:
    lengths = [len(text.token_ids) for text in texts]
    switch = reader.model.rope_switch
    for items in plan_batches(lengths, reader.settings.batch_tokens, switch):
        yield Reading(condition, tuple(texts[item] for item in items))


Item = Reading | Ablating | Asking | Losing


def one_job(reader: Reader, job: Job[Item]) -> Part:
    """A batch that is read or asked about, or one without each head in turn."""
    if isinstance(job.item, Reading):
        return read(reader, Job(job.number, job.item))
    if isinstance(job.item, Asking):
        source = reader.untrained if job.item.who == UNTRAINED else reader.source
        return ask(source, reader.model.name, job.item, reader.settings.weightings)
    if isinstance(job.item, Losing):
        assert reader.of_words is not None
        return word_losses(reader.of_words, job.item.asked)
    assert reader.ablator is not None
    return reader.ablator.part(job.item.asked)


def read(reader: Reader, job: Job[Reading]) -> Part:
    """One batch: the scores of every head, and whole patterns where they are kept."""
    batch = _Batch(reader, job.item)
    reader.source_of(job.item.condition).watch(
        [text.token_ids for text in job.item.texts], batch.see, reader.settings.moved
    )
    tables = {"heads": batch.heads()}
    if reader.settings.keep:
        tables["patterns"] = batch.patterns()
    return Part(tables, batch.problems(), {ERROR: worst(batch.errors) if batch.errors else None})


@dataclass
class _Batch:
    """What is gathered of one batch as its blocks come by."""

    reader: Reader
    reading: Reading
    scores: dict[tuple[int, str], list[np.ndarray]] = field(default_factory=dict)
    kept: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)  # texts with NaN or Inf
    keys: dict[tuple[int, int | None], Int[Tensor, "query key"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        texts = self.reading.texts
        self._facts = [self.reader.source.facts(text.token_ids) for text in texts]
        self._scorers = [{w: Scorer(one) for w, one in own.items()} for own in self._facts]

    def see(self, seen: Seen) -> None:
        """Score one block's pattern of one text."""
        window = self.reader.source.windows[seen.block]
        if not bool(seen.pattern.isfinite().all()):
            self.broken.add(seen.number)
            return
        facts = self._facts[seen.number][window]
        self.errors.append(row_error_of(self.reader.source, seen, facts))
        for weighting in self.reader.settings.weightings:
            pattern = seen.weighted(weighting)
            if CONDITIONS[self.reading.condition].permuted:
                pattern = permuted(pattern, self._keys(seen.number, window))
            found = self._scorers[seen.number][window](pattern)
            rows = np.stack([found[name].numpy() for name in SCORES])  # [score, head]
            self.scores.setdefault((seen.number, weighting), []).append(rows)
        text = self.reading.texts[seen.number]
        if self.reading.condition == "text" and text.prompt_id in self.reader.settings.keep:
            rows_of = _pattern_rows(self.reader.model.name, text.prompt_id, seen, facts)
            self.kept.setdefault(seen.number, []).extend(rows_of)

    def _keys(self, number: int, window: int | None) -> Int[Tensor, "query key"]:
        """The same for all blocks of a window."""
        if (number, window) not in self.keys:
            text = self.reading.texts[number]
            seed = seed_of(text, self.reader.settings)
            self.keys[number, window] = random_keys(len(text.token_ids), seed, window)
        return self.keys[number, window]

    def heads(self) -> pa.Table:
        """The rows of the table `heads`, text after text."""
        rows = [
            _rows(self.reader.model, self.reading.condition, text, weighting, blocks)
            for number, text in enumerate(self.reading.texts)
            for weighting in self.reader.settings.weightings
            if number not in self.broken and (blocks := self.scores.get((number, weighting)))
        ]
        return pa.concat_tables(rows) if rows else HEADS.schema.empty_table()

    def patterns(self) -> pa.Table:
        """The rows of the table `patterns`."""
        kept = [rows for number, rows in sorted(self.kept.items()) if number not in self.broken]
        every = [row for rows in kept for row in rows]
        return pa.Table.from_pylist(every, schema=PATTERNS.schema)

    def problems(self) -> list[Problem]:
        """Texts that give NaN or Inf."""
        ids = [self.reading.texts[number].prompt_id for number in sorted(self.broken)]
        return [not_finite(self.reading.condition, i) for i in ids]


def _rows(
    model: LensModel, condition: str, text: Text, weighting: str, blocks: Sequence[np.ndarray]
) -> pa.Table:
    """Every block's [score, head] of one text, as rows by block and head."""
    n_heads = [rows.shape[1] for rows in blocks]
    block = np.repeat(np.arange(len(blocks)), n_heads)
    depth = [Site("pattern", i + 1).depth(model.n_layers) for i in range(len(blocks))]
    scores = np.concatenate(blocks, axis=1)
    return HEADS.of_columns(
        {
            "model": np.full(len(block), model.name, dtype=object),
            "condition": np.full(len(block), condition, dtype=object),
            "prompt_id": np.full(len(block), text.prompt_id, dtype=object),
            "weighting": np.full(len(block), weighting, dtype=object),
            "block": block,
            "depth": np.repeat(depth, n_heads),
            "head": np.concatenate([np.arange(n) for n in n_heads]),
            "n_tokens": np.full(len(block), len(text.token_ids)),
            **dict(zip(SCORES, scores, strict=True)),
        }
    )


def _pattern_rows(model: str, prompt_id: str, seen: Seen, facts: Facts) -> list[dict[str, Any]]:
    """The lower triangle of each head's pattern, and the lengths of what it moves."""
    below = np.tril_indices(facts.n_tokens)
    pattern = seen.pattern.cpu().numpy()
    lengths = None if seen.lengths is None else seen.lengths.cpu().numpy()
    where = {"model": model, "prompt_id": prompt_id, "block": seen.block}
    return [
        where
        | {
            "head": head,
            "weights": pattern[head][below],
            "moved": None if lengths is None else lengths[head],
        }
        for head in range(len(pattern))
    ]


def in_order(table: pa.Table, texts: dict[str, list[Text]]) -> pa.Table:
    """Rows condition by condition, text by text, whatever batches they were read in."""
    order = [f"{name}\0{text.prompt_id}" for name, own in texts.items() for text in own]
    keys = pc.binary_join_element_wise(table["condition"], table["prompt_id"], "\0")
    place = pc.index_in(keys, pa.array(order, pa.string()))
    return table.take(np.argsort(place.to_numpy(), kind="stable"))
