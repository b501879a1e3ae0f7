"""TransformerLens' logit lens: what `transformer_lens.tools.analysis.logit_lens` returns.

Either the result itself, or its arrays saved under their own names (`values`, `labels`,
`return_type`, `entropy`, `top_ids`, `target_ids`, `target_ranks`, `applied_ln`, `has_batch_dim`).
Entropies there are in nats and ranks count from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from lensbench.errors import InputProblems, Problem
from lensbench.lens.importing.draft import Decode, Draft, arrays_in
from lensbench.lens.importing.plain_csv import read_prompts
from lensbench.lens.importing.readings import of_log_probs
from lensbench.records.validation.columns import Source
from lensbench.records.validation.told import Told

_LN2 = float(np.log(2))
_NAMES = (
    "values",
    "return_type",
    "entropy",
    "top_ids",
    "vocab_ids",
    "target_ids",
    "target_ranks",
    "per_row_targets",
)


@dataclass(frozen=True)
class Stack:
    """One prompt's part of a result: arrays whose first axis is the entry of the stack."""

    places: Sequence[tuple[str, int]]  # site and layer of each entry
    values: np.ndarray  # [entry, position, selected]
    kind: str  # logits, log_probs or probs
    entropy: np.ndarray  # nats [entry, position]
    top_ids: np.ndarray | None  # [entry, position, k]
    ranks: np.ndarray | None  # of the first target, from 0 [entry, position]
    target: np.ndarray | None  # its id [position]
    last_only: bool  # one position, whichever it was


def read_transformer_lens(
    source: Any, told: Told, prompts: Path | None, decode: Decode | None
) -> Draft:
    """The results in an .npz, in each of a folder, or in Python: one, or one by prompt_id.

    Raises InputProblems with all that does not fit.
    """
    results = dict(_results(source))
    given = read_prompts(prompts) if prompts else pd.DataFrame({"prompt_id": []})
    asked = {str(row["prompt_id"]): row for row in given.to_dict("records")}
    stacks: dict[str, Stack] = {}
    problems = []
    for name, arrays in results.items():
        try:
            stacks |= _stacks(name, arrays, told.model.n_layers, list(asked))
        except ValueError as error:
            remedy = "Save the result's arrays as they are; see `lensbench import --help`."
            problems.append(Problem(name, str(error), remedy))
    if problems:
        raise InputProblems(problems)
    rows = [row for name, stack in stacks.items() for row in _rows(name, stack, asked, decode)]
    known = [asked.get(name, {"prompt_id": name}) for name in stacks]
    for row in known:
        stack = stacks[str(row["prompt_id"])]
        if row.get("answer_id") is None and stack.target is not None:
            row["answer_id"] = int(stack.target[-1])
    where = str(source) if isinstance(source, Path) else "the result"
    at = Source(str(prompts or where), "prompt", 1)
    return Draft(told, pd.DataFrame(known), pd.DataFrame(rows), at, Source(where))


def _results(source: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(source, Path):
        yield from arrays_in(source, ["values", "labels", "return_type", "entropy"])
    elif isinstance(source, Mapping):
        for name, result in source.items():
            yield str(name), _arrays(result)
    else:
        yield "prompt", _arrays(source)


def _arrays(result: Any) -> dict[str, Any]:
    """A LogitLensResult's tensors as arrays, by their names."""
    readout = result.readout
    found = {name: getattr(readout, name) for name in _NAMES}
    found |= {"labels": result.labels, "has_batch_dim": result.has_batch_dim}
    return {name: _plain(value) for name, value in found.items() if value is not None}


def _plain(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def _stacks(
    name: str, arrays: Mapping[str, Any], n_layers: int, asked: Sequence[str]
) -> dict[str, Stack]:
    """The prompts of one result, by id: its own name, or those of the prompts' file in order.

    Raises ValueError for what does not fit.
    """
    places = [_place(str(label), n_layers) for label in arrays["labels"]]
    batched = bool(arrays.get("has_batch_dim", False))
    n_lead = arrays["values"].ndim - 1
    if len(places) != len(arrays["values"]) or n_lead not in (1, 2, 3):
        raise ValueError(f"values {arrays['values'].shape} do not fit {len(places)} labels")
    last_only = n_lead == 1 + batched
    kind = str(arrays["return_type"])
    shaped = {
        key: _with_axes(np.asarray(arrays[key]), batched, last_only)
        for key in ("values", "entropy", "top_ids", "target_ranks")
        if arrays.get(key) is not None
    }
    shared = arrays.get("target_ids")
    n_batch = shaped["values"].shape[1]
    ids = [name] if (n_batch == 1 and name in asked) or not asked else list(asked)
    ids = ids if n_batch == len(ids) else [f"{name}-{i}" for i in range(n_batch)]
    if n_batch > 1 and len(asked) not in (0, n_batch):
        raise ValueError(f"{n_batch} prompts in the batch, {len(asked)} in the prompts' file")
    return {
        item: Stack(
            places,
            shaped["values"][:, i],
            kind,
            shaped["entropy"][:, i],
            shaped["top_ids"][:, i] if "top_ids" in shaped else None,
            shaped["target_ranks"][:, i, :, 0] if "target_ranks" in shaped else None,
            _target(shared, i, shaped["values"].shape[2], bool(arrays.get("per_row_targets"))),
            last_only,
        )
        for i, item in enumerate(ids)
    }


def _with_axes(array: np.ndarray, batched: bool, last_only: bool) -> np.ndarray:
    """With an axis for the batch and one for the position, whatever was asked for."""
    array = array if batched else array[:, None]
    return array[:, :, None] if last_only else array


def _target(ids: Any, i: int, n_positions: int, per_row: bool) -> np.ndarray | None:
    """The first target's id at each position. Raises ValueError where it is not plain whose."""
    if ids is None:
        return None
    flat = np.asarray(ids)
    if not per_row:
        return np.full(n_positions, int(flat.reshape(-1)[0]))
    row = flat[0] if flat.ndim and flat.shape[0] > i and flat.ndim > 2 else flat
    row = np.asarray(row)
    return np.broadcast_to(row[i] if row.ndim and len(row) > i else row, (n_positions,))


def _place(label: str, n_layers: int) -> tuple[str, int]:
    """Site and layer of an entry: 0_pre is the embedding, 3_mid inside block 3."""
    if label == "final_post":
        return "resid_post", n_layers
    found = re.fullmatch(r"(\d+)_(pre|mid)", label)
    if not found:
        raise ValueError(f"the label {label!r} is no entry of the residual stream")
    block = int(found[1])
    if block >= n_layers:
        raise ValueError(f"the label {label!r} is of block {block}, but n_layers is {n_layers}")
    if found[2] == "mid":
        return "resid_mid", block + 1
    return ("embed" if block == 0 else "resid_post"), block


def _rows(
    name: str, stack: Stack, asked: Mapping[str, Any], decode: Decode | None
) -> Iterator[dict[str, Any]]:
    """A row for each entry and position, with what the result holds of it."""
    answer = asked.get(name, {}).get("answer_id")
    n_positions = stack.values.shape[1]
    for at in range(n_positions):
        if answer is None and stack.target is not None:
            answer = int(stack.target[-1])
        numbers = _numbers(stack, at, answer, decode)
        for (site, layer), own in zip(stack.places, numbers, strict=True):
            row: dict[str, Any] = {"prompt_id": name, "site": site, "layer": layer}
            row |= {"is_last": at == n_positions - 1}
            row |= {} if stack.last_only else {"position": at}
            yield row | own


def _numbers(stack: Stack, at: int, answer: Any, decode: Decode | None) -> list[dict[str, Any]]:
    """What each entry of the stack says of one position."""
    if stack.top_ids is None and stack.ranks is None:  # the whole vocabulary
        own = _log_probs(stack.values[:, at], stack.kind)
        output = own[-1] if stack.places[-1][0] == "resid_post" else None
        return of_log_probs(own, None if answer is None else int(answer), output, decode)
    return [_selected(stack, i, at, answer, decode) for i in range(len(stack.places))]


def _selected(stack: Stack, i: int, at: int, answer: Any, decode: Decode | None) -> dict[str, Any]:
    """The same of one entry, where only some tokens were kept."""
    numbers: dict[str, Any] = {"entropy_bits": float(stack.entropy[i, at]) / _LN2}
    values = stack.values[i, at]
    if stack.top_ids is not None:
        best = stack.top_ids[i, at]
        order = np.argsort(-values, kind="stable")
        numbers["top_ids"] = best[order].tolist()
        if stack.kind != "logits":
            probs = np.exp(values) if stack.kind == "log_probs" else values
            numbers["top_probs"] = probs[order].tolist()
        if decode is not None:
            numbers["top_tokens"] = [decode(int(token)) for token in best[order]]
    if stack.ranks is not None and stack.target is not None and stack.target[at] == answer:
        numbers |= {"answer_id": int(answer), "answer_rank": int(stack.ranks[i, at]) + 1}
        if stack.kind != "logits":
            value = float(values[0])
            numbers["answer_prob"] = float(np.exp(value)) if stack.kind == "log_probs" else value
    return numbers


def _log_probs(values: np.ndarray, kind: str) -> np.ndarray:
    if kind == "probs":
        return np.log(np.maximum(values.astype(np.float64), np.finfo(np.float64).tiny))
    return np.asarray(log_softmax(values.astype(np.float64), axis=-1))
