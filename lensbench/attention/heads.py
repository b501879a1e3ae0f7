"""Scores of every head over prompts: patterns are reduced as they come and never kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from lensbench.attention.scores import SCORES
from lensbench.errors import InputProblems, Problem
from lensbench.models.model import LensModel, require_loaded
from lensbench.models.sites import Site
from lensbench.prompts.batch import make_batch, plan_batches
from lensbench.prompts.encode import encode_ids
from lensbench.prompts.prompt import Prompts
from lensbench.residuals.capture import watch


def head_scores(model: LensModel, prompts: Prompts, *, batch_tokens: int = 512) -> pd.DataFrame:
    """One row per prompt, block and head, all numbered from 0, with a column per score.

    Memory beyond the forward pass: the pattern of one block.

    Raises InputProblems for prompts of one token, which leave a head nothing to choose from.
    """
    ids = encode_ids(require_loaded(model).encoder(), prompts)
    short = [number for number, one in enumerate(ids) if len(one) < 2]
    if short:
        what = "it is one token, so a head can look at nothing but that"
        found = [Problem(f"prompt {number}", what, "Give two tokens or more.") for number in short]
        raise InputProblems(found)
    rows = [
        row
        for items in plan_batches([len(one) for one in ids], batch_tokens, model.rope_switch)
        for row in _batch(model, {item: ids[item] for item in items})
    ]
    return pd.DataFrame(rows).sort_values(["prompt", "block", "head"], ignore_index=True)


def _batch(model: LensModel, ids: dict[int, Sequence[int]]) -> list[dict[str, Any]]:
    """The rows of some prompts, by their number, in one forward pass."""
    rows: list[dict[str, Any]] = []

    def see(site: Site, patterns: Float[Tensor, "batch head query key"]) -> None:
        for (number, one), pattern in zip(ids.items(), patterns, strict=True):
            n = len(one)  # padding stands behind
            rows.extend(_rows(number, site, pattern[:, :n, :n].float()))

    watch(model, make_batch(range(len(ids)), list(ids.values())), model.sites("pattern"), see)
    return rows


def _rows(
    prompt: int, site: Site, pattern: Float[Tensor, "head query key"]
) -> list[dict[str, Any]]:
    scores = {name: score(pattern).tolist() for name, score in SCORES.items()}
    where = {"prompt": prompt, "block": site.layer - 1}
    return [
        where | {"head": head} | {name: values[head] for name, values in scores.items()}
        for head in range(len(pattern))
    ]
