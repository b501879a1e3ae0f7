"""An attention record: its jobs, what each reads, and the tables of all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.again import Sent
from lensbench.attention.causal.tables import Ablating, Ablator
from lensbench.attention.compared.nulls import permuted, random_keys
from lensbench.attention.conditions import CONDITIONS, Text, own_texts, seed_of
from lensbench.attention.gate import ERROR, not_finite, row_check, row_error_of
from lensbench.attention.patterns import Seen, Source
from lensbench.attention.phenomena.asking import UNTRAINED, Asking, ask
from lensbench.attention.phenomena.without import Losing, word_losses
from lensbench.attention.scores import LEAST_TOKENS, Scorer
from lensbench.attention.settings import AttentionSettings, EncoderSettings
from lensbench.errors import Problem
from lensbench.lens.gate import worst
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.models.text_encoder import TextEncoder
from lensbench.models.untrained import untrained
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt
from lensbench.prompts.prompt import Prompt
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.attention import HEADS, PATTERNS, SCORES
from lensbench.records.schema.declare import Table


@dataclass(frozen=True)
class Reading:
    """One batch of one condition."""

    condition: str
    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Reader(Sent):
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


def not_kept(
    settings: AttentionSettings | EncoderSettings, encoded: Sequence[EncodedPrompt]
) -> list[Problem]:
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
        check = partial(row_check, source)
        return ask(source, check, reader.model.name, job.item, reader.settings.weightings)
    if isinstance(job.item, Losing):
        assert reader.of_words is not None
        return word_losses(reader.of_words, job.item.asked)
    assert reader.ablator is not None
    return reader.ablator.part(job.item.asked)


def read(reader: Reader, job: Job[Reading]) -> Part:
    """One batch: the scores of every head, and whole patterns where they are kept."""
    reading, settings = job.item, reader.settings
    scoring = _Scoring(reader, reading)
    kept = settings.keep if reading.condition == "text" else ()
    batch = HeadBatch(reader.model, reading, HEADS, scoring, scoring.error, kept)
    texts = [text.token_ids for text in reading.texts]
    reader.source_of(reading.condition).watch(texts, batch.see, settings.moved)
    return batch.part(bool(settings.keep))


class _Scoring:
    """The scores of one block's heads on one text of a reading."""

    def __init__(self, reader: Reader, reading: Reading) -> None:
        self._reader = reader
        self._texts = reading.texts
        self._permuted = CONDITIONS[reading.condition].permuted
        self._facts = [reader.source.facts(text.token_ids) for text in reading.texts]
        self._scorers = [{w: Scorer(one) for w, one in own.items()} for own in self._facts]
        self._keys: dict[tuple[int, int | None], Int[Tensor, "query key"]] = {}

    def __call__(self, seen: Seen) -> dict[str, Float[np.ndarray, "score head"]]:
        """By each weighting, in the order of `SCORES`."""
        window, found = self._reader.source.windows[seen.block], {}
        for weighting in self._reader.settings.weightings:
            pattern = seen.weighted(weighting)
            if self._permuted:
                pattern = permuted(pattern, self._keys_of(seen.number, window))
            scores = self._scorers[seen.number][window](pattern)
            found[weighting] = np.stack([scores[name].numpy() for name in SCORES])
        return found

    def error(self, seen: Seen) -> float:
        """How far its rows are from what they must be."""
        source = self._reader.source
        return row_error_of(source, seen, self._facts[seen.number][source.windows[seen.block]])

    def _keys_of(self, number: int, window: int | None) -> Int[Tensor, "query key"]:
        """The same for all blocks of a window."""
        if (number, window) not in self._keys:
            text = self._texts[number]
            seed = seed_of(text, self._reader.settings)
            self._keys[number, window] = random_keys(len(text.token_ids), seed, window)
        return self._keys[number, window]


@dataclass
class HeadBatch:
    """What is gathered of one batch as its blocks come by.

    `score` gives by weighting the scores of one block's heads on one text, `check` how far the rows
    of the pattern are from what they must be. Rows are of `table`, whose last columns are the
    scores. Of the texts `kept` the patterns are kept whole: with `both_ways` all of it, otherwise
    what a causal model may look at.
    """

    model: LensModel | TextEncoder
    reading: Reading
    table: Table
    score: Callable[[Seen], Mapping[str, Float[np.ndarray, "score head"]]]
    check: Callable[[Seen], float]
    kept: Collection[str] = ()
    both_ways: bool = False
    _scores: dict[tuple[int, str], list[np.ndarray]] = field(default_factory=dict)
    _patterns: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    _errors: list[float] = field(default_factory=list)
    _broken: set[int] = field(default_factory=set)  # texts with NaN or Inf

    def see(self, seen: Seen) -> None:
        """Score one block's pattern of one text."""
        if not bool(seen.pattern.isfinite().all()):
            self._broken.add(seen.number)
            return
        self._errors.append(self.check(seen))
        for weighting, rows in self.score(seen).items():
            self._scores.setdefault((seen.number, weighting), []).append(rows)
        prompt_id = self.reading.texts[seen.number].prompt_id
        if prompt_id in self.kept:
            rows_of = self._pattern_rows(prompt_id, seen)
            self._patterns.setdefault(seen.number, []).extend(rows_of)

    def part(self, patterns: bool) -> Part:
        """All of it, once the batch has run; with `patterns` the kept ones have a table."""
        tables = {self.table.name: self._heads()}
        if patterns:
            whole = [rows for n, rows in sorted(self._patterns.items()) if n not in self._broken]
            every = [row for rows in whole for row in rows]
            tables[PATTERNS.name] = PATTERNS.of_rows(every)
        error = worst(self._errors) if self._errors else None
        return Part(tables, self._problems(), {ERROR: error})

    def _heads(self) -> pa.Table:
        """Rows text after text, weighting after weighting."""
        rows = [
            self._rows(text, weighting, blocks)
            for number, text in enumerate(self.reading.texts)
            for (own, weighting), blocks in self._scores.items()
            if own == number and number not in self._broken
        ]
        return pa.concat_tables(rows) if rows else self.table.schema.empty_table()

    def _problems(self) -> list[Problem]:
        """Texts that give NaN or Inf."""
        ids = [self.reading.texts[number].prompt_id for number in sorted(self._broken)]
        return [not_finite(self.reading.condition, i) for i in ids]

    def _rows(self, text: Text, weighting: str, blocks: Sequence[np.ndarray]) -> pa.Table:
        """Every block's [score, head] of one text, as rows by block and head."""
        n_heads = [rows.shape[1] for rows in blocks]
        block = np.repeat(np.arange(len(blocks)), n_heads)
        depth = [Site("pattern", i + 1).depth(self.model.n_layers) for i in range(len(blocks))]
        scores = np.concatenate(blocks, axis=1)
        return self.table.of_columns(
            {
                "model": np.full(len(block), self.model.name, dtype=object),
                "condition": np.full(len(block), self.reading.condition, dtype=object),
                "prompt_id": np.full(len(block), text.prompt_id, dtype=object),
                "weighting": np.full(len(block), weighting, dtype=object),
                "block": block,
                "depth": np.repeat(depth, n_heads),
                "head": np.concatenate([np.arange(n) for n in n_heads]),
                "n_tokens": np.full(len(block), len(text.token_ids)),
                **dict(zip(self.table.names[-len(scores) :], scores, strict=True)),
            }
        )

    def _pattern_rows(self, prompt_id: str, seen: Seen) -> list[dict[str, Any]]:
        """Each head's pattern, query after query, and the lengths of what it moves."""
        pattern = seen.pattern.cpu().numpy()
        n = pattern.shape[-1]
        cells = np.indices((n, n)).reshape(2, -1) if self.both_ways else np.tril_indices(n)
        lengths = None if seen.lengths is None else seen.lengths.cpu().numpy()
        where = {"model": self.model.name, "prompt_id": prompt_id, "block": seen.block}
        return [
            where
            | {
                "head": head,
                "weights": pattern[head][cells[0], cells[1]],
                "moved": None if lengths is None else lengths[head],
            }
            for head in range(len(pattern))
        ]


def read_ones(heads: pa.Table, encoded: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
    """Prompts that have rows of heads: not those that gave NaN."""
    there = {*heads["prompt_id"].to_pylist()}
    return [item for item in encoded if item.prompt.id in there]


def in_order(table: pa.Table, texts: dict[str, list[Text]]) -> pa.Table:
    """Rows condition by condition, text by text, whatever batches they were read in."""
    order = [f"{name}\0{text.prompt_id}" for name, own in texts.items() for text in own]
    keys = pc.binary_join_element_wise(table["condition"], table["prompt_id"], "\0")
    place = pc.index_in(keys, pa.array(order, pa.string()))
    return table.take(np.argsort(place.to_numpy(), kind="stable"))
