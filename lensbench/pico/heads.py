"""What the heads of one model of a lineage do, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa

from lensbench.attention.compared.names import names_table
from lensbench.attention.conditions import Text
from lensbench.attention.gate import ERROR, check_heads, rows_identity
from lensbench.attention.patterns import Source
from lensbench.attention.record import Reader, plan_readings, read
from lensbench.attention.settings import AttentionSettings
from lensbench.errors import Problem
from lensbench.lens.gate import Identity, require, worst
from lensbench.models.model import LensModel
from lensbench.prompts.prompt import Prompt
from lensbench.records.engine import Job
from lensbench.records.schema.pico import HEAD_SCORES
from lensbench.stats.naming.claims import REPEATED, REPEATED_NULLS, TEXT, TEXT_NULLS

_HEAD = ["block", "head"]


@dataclass(frozen=True)
class Heads:
    """Rows of the table `heads` of `lensbench attention`, and what held of all that was read."""

    rows: pd.DataFrame
    gate: list[Identity]
    problems: list[Problem]

    @cached_property
    def scores(self) -> list[dict[str, Any]]:
        """Means over the repeated tokens, of every head."""
        repeated = self.rows[self.rows["condition"] == REPEATED]
        means = repeated.groupby(_HEAD)[[*HEAD_SCORES]].mean().astype(float).reset_index()
        return [{str(key): row[key] for key in row} for row in means.to_dict("records")]

    @property
    def best(self) -> dict[str, Any]:
        """The head of the highest induction score."""
        return max(self.scores, key=lambda row: row["induction"])

    def names(self) -> list[dict[str, Any]]:
        """Of every head, by the claims and nulls of `lensbench attention`."""
        rows: list[dict[str, Any]] = names_table("", self.rows, {}).to_pylist()
        return rows


def read_heads(model: LensModel, read_of: Mapping[str, Sequence[tuple[int, ...]]]) -> Heads:
    """Every head's scores, gated.

    Args:
        read_of: what is read: tokens of `text` and of `repeated`, or of one of them. With text also
            both under their nulls, so that heads have names.

    Raises GateError where what was read is not the model's attention.
    """
    reader = Reader(Source(model), AttentionSettings(weightings=("plain",)))
    own = {
        base: [Text(f"{base}-{number}", ids) for number, ids in enumerate(each, 1)]
        for base, each in read_of.items()
    }
    texts = dict(own)
    if TEXT in own:
        texts |= dict.fromkeys(TEXT_NULLS, own[TEXT])
        texts |= dict.fromkeys(REPEATED_NULLS, own[REPEATED])
    prompts = [Prompt(text.prompt_id, "") for each in own.values() for text in each]
    (readings,) = plan_readings(reader, texts, [prompts])
    parts = [read(reader, Job(number, one)) for number, one in enumerate(readings)]
    gate = _gate(reader, own, [part.notes[ERROR] for part in parts])
    rows = pa.concat_tables([part.tables["heads"] for part in parts]).to_pandas()
    return Heads(rows, gate, [problem for part in parts for problem in part.problems])


def _gate(
    reader: Reader, own: Mapping[str, Sequence[Text]], errors: Sequence[float | None]
) -> list[Identity]:
    """Rows of all that was read; what heads write, of the shortest and the longest."""
    by_length = sorted((text.token_ids for each in own.values() for text in each), key=len)
    checked = check_heads(reader.source, [by_length[0], by_length[-1]], moved=False)
    known = [error for error in errors if error is not None]
    gate = [rows_identity(reader.source, worst(known)), *checked[1:]] if known else checked
    require(gate)
    return gate
