"""Trajectories of tuned-lens: `log_probs` and `input_ids` of its PredictionTrajectory, as arrays.

Row i of `log_probs` [n_layers + 1, tokens, d_vocab] is the lens on the state that enters block i,
the last row the model's own output: the layers of a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lensbench.errors import InputProblems, Problem
from lensbench.lens.importing.draft import Decode, Draft, arrays_in
from lensbench.lens.importing.plain_csv import read_prompts
from lensbench.lens.importing.readings import normalised, of_log_probs
from lensbench.records.validation.columns import Source
from lensbench.records.validation.told import Told

WHOLE = 4  # prompts of which every position is kept, for heat maps


def read_tuned_lens(path: Path, told: Told, prompts: Path | None, decode: Decode | None) -> Draft:
    """The trajectories in an .npz, or in each of a folder; a file's stem is its prompt's id.

    Of a batch the ids are stem-0, stem-1, ... The answer's token is the prompt's `answer_id`, else
    the last of the array `targets`.
    """
    given = read_prompts(prompts) if prompts else pd.DataFrame({"prompt_id": []})
    by_id: dict[Any, Any] = {row["prompt_id"]: row for row in given.to_dict("records")}
    asked: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    for name, item in _trajectories(path):
        wrong = list(_wrong(f"{path}, {name}", item, told.model.n_layers))
        problems += wrong
        if wrong:
            continue
        prompt = _prompt(name, item, by_id.get(name, {}), decode)
        asked.append(prompt)
        rows += _rows(prompt, item, len(asked) <= WHOLE, decode)
    if problems:
        raise InputProblems(problems)
    at = Source(str(prompts or path), "prompt", 1)
    return Draft(told, pd.DataFrame(asked), pd.DataFrame(rows), at, Source(str(path)))


def _trajectories(path: Path) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Each sequence by its name: a file's own, or those of its batch."""
    for stem, arrays in arrays_in(path, ["log_probs", "input_ids"]):
        if arrays["log_probs"].ndim == 4:
            for i in range(len(arrays["log_probs"])):
                yield f"{stem}-{i}", {k: v[i] for k, v in arrays.items() if v.ndim}
        else:
            yield stem, arrays


def _wrong(where: str, item: dict[str, np.ndarray], n_layers: int) -> Iterator[Problem]:
    shape, n_tokens = item["log_probs"].shape, item["input_ids"].shape
    if len(shape) != 3 or n_tokens != shape[1:2]:
        what = f"log_probs {shape} and input_ids {n_tokens} do not fit"
        yield Problem(where, what, "They are [layer, token, vocabulary] and [token].")
    elif shape[0] != n_layers + 1:
        what = f"{shape[0]} rows of log_probs, but n_layers is {n_layers}"
        yield Problem(where, what, "There is a row for each layer and one for the output.")
    elif not all(normalised(item["log_probs"][:, at]) for at in range(shape[1])):
        yield Problem(where, "log_probs do not sum to 1", "Give natural logarithms, not logits.")


def _prompt(
    name: str, item: dict[str, np.ndarray], given: dict[str, Any], decode: Decode | None
) -> dict[str, Any]:
    """Its row: what the prompts' file says, and what follows from the arrays."""
    ids = [int(token) for token in item["input_ids"]]
    row = {k: v for k, v in given.items() if v is not None and v == v} | {"prompt_id": name}
    row |= {"token_ids": ids, "n_tokens": len(ids)}
    if row.get("answer_id") is None and item.get("targets") is not None:
        row["answer_id"] = int(item["targets"][-1])
    if decode is not None:
        row["tokens"] = [decode(token) for token in ids]
        row.setdefault("prompt", "".join(row["tokens"]))
        if row.get("answer_id") is not None:
            row["answer_token"] = decode(int(row["answer_id"]))
            row.setdefault("answer", row["answer_token"].strip() or row["answer_token"])
    return row


def _rows(
    prompt: dict[str, Any], item: dict[str, np.ndarray], whole: bool, decode: Decode | None
) -> Iterator[dict[str, Any]]:
    log_probs, ids = item["log_probs"], prompt["token_ids"]
    answer = prompt.get("answer_id")
    last = len(ids) - 1
    for position in range(0 if whole else last, last + 1):
        here = log_probs[:, position]
        read = of_log_probs(here, None if answer is None else int(answer), here[-1], decode)
        about = {"prompt_id": prompt["prompt_id"], "position": position, "token_id": ids[position]}
        about |= {"is_last": position == last}
        about |= {"token": decode(ids[position])} if decode else {}
        for layer, numbers in enumerate(read):
            yield about | {"layer": layer} | numbers
