"""Phenomena as a stage of an attention record: its jobs, and the tables that they end in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import pyarrow as pa

from lensbench.attention.causal.tables import Ablator
from lensbench.attention.patterns import Patterns
from lensbench.attention.phenomena.asking import TRAINED, UNTRAINED, Asking, asked_of
from lensbench.attention.phenomena.questions import CAUSAL, Direction
from lensbench.attention.phenomena.tables import depths_table, phenomena_table
from lensbench.attention.phenomena.without import Losing, phenomenon_ablation_table
from lensbench.errors import Problem
from lensbench.models.model import LensModel
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import encode_all
from lensbench.prompts.prompt import choose
from lensbench.prompts.sets import PromptSet
from lensbench.records.parts import Parts
from lensbench.records.schema.phenomena import ANSWERS, PHENOMENON_ABLATION, WORD_LOSSES

_SHORT = 4  # jobs without each head, one after the other, in the place of one that asks


@dataclass(frozen=True)
class Phenomena:
    """Batches of sentences for the model and for the untrained one, and what is left out.

    Without sentences there is nothing to ask, and no table.
    """

    asking: list[Asking]
    problems: list[Problem]
    seed: int
    wanted: bool
    ablator: Ablator | None = None
    losing: tuple[Losing, ...] = ()

    @classmethod
    def of(
        cls,
        source: Patterns,
        sentences: PromptSet | None,
        batch_tokens: int,
        seed: int,
        directions: Sequence[Direction] = CAUSAL,
        ablate: int = 0,
    ) -> Phenomena:
        """What is asked of a model about the words of some sentences.

        `ablate`: of how many of them also what it loses without each head; its jobs are short.
        """
        if sentences is None:
            return cls([], [], seed, wanted=False)
        encoder = source.model.encoder("plain", sentences.name)
        encoded, problems = encode_all(encoder, sentences.prompts)
        asked, wrong = asked_of(source, encoded, directions, sentences.name)
        lengths = [len(one.token_ids) for one in asked]
        batches = plan_batches(lengths, batch_tokens, source.model.rope_switch)
        plan = [
            Asking(who, tuple(asked[item] for item in items))
            for who in (TRAINED, UNTRAINED)
            for items in batches
        ]
        found = cls(plan, [*sentences.problems, *problems, *wrong], seed, wanted=True)
        if not ablate:
            return found
        assert isinstance(source.model, LensModel)  # an encoder has no loss
        chosen = {prompt.id for prompt in choose(sentences.prompts, ablate)}
        own = [one for one in asked if one.prompt_id in chosen]
        lengths = [len(one.token_ids) for one in own]
        short = plan_batches(lengths, batch_tokens // _SHORT, source.model.rope_switch)
        return replace(
            found,
            ablator=Ablator(source.model, [], [one.token_ids for one in asked], batch_tokens),
            losing=tuple(Losing(tuple(own[item] for item in items)) for items in short),
        )

    def tables(self, parts: Parts, heads: pa.Table, model: str) -> dict[str, pa.Table]:
        """What follows from all answers, sentence by sentence whatever batches they were read in.

        Args:
            heads: the record's table of scores.
        """
        if not self.wanted:
            return {}
        answers, scored = parts.table(ANSWERS.name), heads.to_pandas()
        rows = answers.to_pandas().sort_values(["who", "prompt_id"], kind="stable")
        places = _places(scored)
        phenomena = phenomena_table(rows, places, model, self.seed)
        found = {
            "answers": pa.Table.from_pandas(rows, answers.schema, preserve_index=False),
            "phenomena": phenomena,
            "depths": depths_table(rows, scored, places, model, self.seed),
        }
        if self.ablator is None:
            return found
        losses = parts.table(WORD_LOSSES.name).sort_by(
            [(name, "ascending") for name in ("prompt_id", "phenomenon", "query", "offset")]
        )
        return found | {
            WORD_LOSSES.name: losses,
            PHENOMENON_ABLATION.name: phenomenon_ablation_table(
                rows, phenomena, losses.to_pandas(), places, self.seed
            ),
        }


def _places(heads: pd.DataFrame) -> list[tuple[int, int]]:
    """Block and head of each answer of a list."""
    pairs = heads[["block", "head"]].drop_duplicates().sort_values(["block", "head"])
    return [(int(block), int(head)) for block, head in pairs.to_numpy()]
