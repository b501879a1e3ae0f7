"""Ablations as jobs of a record: each a batch of prompts, without every head in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from lensbench.again import Sent
from lensbench.attention.causal.ablation import (
    NO_ANSWER,
    Head,
    Losses,
    Means,
    ablated,
    every_head,
    mean_outputs,
)
from lensbench.attention.causal.direct import direct_effects
from lensbench.attention.causal.redundancy import redundancy
from lensbench.attention.circuits.weights import stored_weights
from lensbench.attention.gate import not_finite
from lensbench.errors import ModelError
from lensbench.models.model import LensModel
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt
from lensbench.records.parts import Part
from lensbench.records.schema.attention import ABLATION, REDUNDANCY


@dataclass(frozen=True)
class Asked:
    """A prompt and what should come behind it, in tokens."""

    prompt_id: str
    token_ids: tuple[int, ...]
    answer: int = NO_ANSWER

    @classmethod
    def of(cls, item: EncodedPrompt) -> Asked:
        """From an encoded prompt; of an answer its first token."""
        answer = NO_ANSWER if item.answer is None else item.answer.id
        return cls(item.prompt.id, item.token_ids, answer)


@dataclass(frozen=True)
class Ablating:
    """A job: every head of a model, over some prompts."""

    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Ablator(Sent):
    """A model, the prompts on which it does without heads, and those that heads' means are of.

    `others` are more than `asked`: means of a few prompts would tell the model what is in them.
    """

    model: LensModel
    asked: Sequence[Asked]
    others: Sequence[Sequence[int]]  # token ids
    batch_tokens: int

    @cached_property
    def means(self) -> Means:
        """What each head gives on average."""
        return mean_outputs(self.model, self.others, self.batch_tokens)

    @cached_property
    def has_weights(self) -> bool:
        """Whether every block's heads have weights to read: not if packed, with an adapter beside
        them, or of a latent (MLA); nor where blocks differ in their heads' width."""
        try:
            for block in range(self.model.n_layers):
                stored_weights(self.model, block)
        except ModelError:
            return False
        return True

    @cached_property
    def heads(self) -> list[Head]:
        """All heads, in the order of the table."""
        return every_head(self.model)

    def jobs(self) -> Iterator[Ablating]:
        """Of as many prompts each as one batch holds."""
        lengths = [len(one.token_ids) for one in self.asked]
        for items in plan_batches(lengths, self.batch_tokens, self.model.rope_switch):
            yield Ablating(tuple(self.asked[item] for item in items))

    def part(self, asked: Sequence[Asked]) -> Part:
        """The rows of the table `ablation` of some prompts; what gives NaN or Inf has none."""
        losses = ablated(
            self.model,
            _ids(asked),
            [[head] for head in self.heads],
            [one.answer for one in asked],
            self.batch_tokens,
            self.means,
        )
        table = self._rows(asked, losses)
        finite = np.isfinite(losses.clean) & np.isfinite(losses.without).all(-1)
        return Part(
            {"ablation": table.filter(np.repeat(finite, len(self.heads)))},
            [not_finite("ablation", asked[i].prompt_id) for i in np.flatnonzero(~finite).tolist()],
        )

    def _rows(self, asked: Sequence[Asked], losses: Losses) -> pa.Table:
        """One row per prompt and head."""
        effects = self._effects(asked)
        n, blocks, heads = len(asked), *np.array(self.heads).T
        return ABLATION.of_columns(
            {
                "model": np.full(n * len(blocks), self.model.name, dtype=object),
                "prompt_id": np.repeat([one.prompt_id for one in asked], len(blocks)),
                "block": np.tile(blocks, n),
                "head": np.tile(heads, n),
                "loss_change_nats": losses.change.ravel(),
                "answer_change_nats": losses.answer_change.ravel(),
                "answer_effect": effects.ravel(),
                "n_predicted": np.repeat(losses.n_tokens, len(blocks)),
            }
        )

    def _effects(self, asked: Sequence[Asked]) -> Float[np.ndarray, "prompt head"]:
        """Of prompts with an answer, what each head adds to its logit; NaN of the others."""
        found = np.full((len(asked), len(self.heads)), np.nan)
        there = [number for number, one in enumerate(asked) if one.answer != NO_ANSWER]
        if there and self.has_weights:
            own = [asked[number] for number in there]
            each: Tensor = direct_effects(
                self.model, _ids(own), [one.answer for one in own], self.batch_tokens
            )
            found[there] = each.flatten(1).double().numpy()
        return found

    def redundancy(self, ablation: pa.Table) -> pa.Table:
        """The rows of the table `redundancy`, from those of `ablation` of all the prompts."""
        there = {*ablation["prompt_id"].to_pylist()}
        asked = [one for one in self.asked if one.prompt_id in there]
        if len(asked) < 2:
            return REDUNDANCY.schema.empty_table()
        frame: pd.DataFrame = ablation.to_pandas()
        by_place = frame.set_index(["prompt_id", "block", "head"])["loss_change_nats"]
        wide = by_place.unstack(["block", "head"]).reindex(
            index=[one.prompt_id for one in asked],
            columns=pd.MultiIndex.from_tuples(self.heads),
        )
        curve = redundancy(
            self.model,
            _ids(asked),
            self.heads,
            wide.to_numpy(np.float64),
            self.means,
            self.batch_tokens,
        )
        rows = [
            {
                "model": self.model.name,
                "prompt_id": asked[prompt].prompt_id,
                "n_heads": size,
                "last_block": curve.order[size - 1][0],
                "last_head": curve.order[size - 1][1],
                "loss_change_nats": float(curve.change[row, column]),
            }
            for row, prompt in enumerate(curve.prompts)
            for column, size in enumerate(curve.sizes)
        ]
        return REDUNDANCY.of_rows(rows)


def _ids(asked: Sequence[Asked]) -> list[tuple[int, ...]]:
    return [one.token_ids for one in asked]
