"""Numbers of a lens record that cannot all be true: of another token, unit or place than said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from lensbench.errors import Problem
from lensbench.records.lens.record import has_answer
from lensbench.records.validation.columns import wrong_rows
from lensbench.records.validation.tables import Written

_SLACK = 1e-3
_OUTPUT_KL_BITS = 0.1  # more than half precision makes of a lens that is the model
_ENTROPY_BITS = 0.05  # what probabilities rounded to 3 digits make of an entropy
_WORDS = ("category", "null_category")


def contradictions(written: Written) -> list[Problem]:
    """All rows whose numbers contradict each other or what they are said to be of."""
    return [
        *_of_vocabulary(written),
        *_of_answers(written),
        *_of_top_tokens(written),
        *_of_output(written),
        *_of_tokens(written),
    ]


def _of_vocabulary(written: Written) -> Iterator[Problem]:
    """Ranks and entropies that so many tokens cannot have."""
    lens, source = written.lens, written.sources["lens"]
    if not written.d_vocab:
        return
    for name in ("answer_rank", "answer_guess_rank", "category_rank", "null_category_rank"):
        off = lens[name].astype(float) > written.d_vocab
        what = f"{name} is above d_vocab ({written.d_vocab})"
        yield from wrong_rows(source, off, what, "Ranks count from 1.")
    off = lens["entropy_bits"].astype(float) > np.log2(written.d_vocab) + _SLACK
    what = f"entropy_bits is above log2 of d_vocab ({np.log2(written.d_vocab):.2f})"
    yield from wrong_rows(source, off, what, "Give bits: nats / ln 2.")


def _of_answers(written: Written) -> Iterator[Problem]:
    """Readings of a word that the prompt does not have, or of another token than its own."""
    lens, source = written.lens, written.sources["lens"]
    prompts = written.prompts.drop_duplicates("prompt_id").set_index("prompt_id")
    whose = lens["prompt_id"]
    known = whose.isin(prompts.index)
    read = lens["answer_rank"].notna() | lens["answer_prob"].notna()
    without = known & ~whose.map(has_answer(prompts)).eq(True)
    what = "the answer was read, but its prompt has none"
    yield from wrong_rows(source, without & read, what, "Give the prompt its answer or answer_id.")
    own = whose.map(prompts["answer_id"]).astype(float)
    said = lens["answer_id"].astype(float)
    other = own.notna() & said.notna() & (own != said)
    what = "answer_id is another than the prompt's"
    yield from wrong_rows(source, other, what, "Read the answer that the prompt names.")
    for name in _WORDS:
        has = prompts[name].notna() | prompts[f"{name}_id"].notna()
        without = known & ~whose.map(has).eq(True) & lens[f"{name}_rank"].notna()
        what = f"{name}_rank is there, but its prompt has no {name}"
        yield from wrong_rows(source, without, what, f"Give the prompt its {name}.")


def _of_top_tokens(written: Written) -> Iterator[Problem]:
    """Top tokens against each other, the answer and the entropy."""
    lens, source = written.lens, written.sources["lens"]
    best = lens["top_probs"].map(_first)
    prob, rank = lens["answer_prob"].astype(float), lens["answer_rank"].astype(float)
    off = (prob > best + _SLACK) | ((rank == 1) & (prob < best - _SLACK))
    what = "answer_prob, answer_rank and top_probs contradict each other"
    yield from wrong_rows(source, off, what, "At rank 1 the answer is the most probable token.")
    what = (
        "top_ids, top_probs and top_tokens are of different lengths, or top_probs are not the "
        "largest first and at most 1 together"
    )
    unlike = [_unlike(row) for row in lens[["top_ids", "top_probs", "top_tokens"]].values]
    yield from wrong_rows(source, unlike, what, "Give the most probable tokens, best first.")
    asked = written.prompts.drop_duplicates("prompt_id").set_index("prompt_id")["answer_id"]
    answer = lens["answer_id"].fillna(lens["prompt_id"].map(asked))
    cells = zip(answer, rank, lens["answer_ties"], lens["top_ids"], lens["top_probs"], strict=True)
    what = "answer_rank is not the answer's place in top_ids"
    remedy = "Ranks count from 1; tokens of exactly its probability are its answer_ties."
    yield from wrong_rows(source, [_misplaced(*cell) for cell in cells], what, remedy)
    bits = zip(lens["entropy_bits"].astype(float), lens["top_probs"], unlike, strict=True)
    off_bits = [
        not odd and _impossible(entropy, probs, written.d_vocab) for entropy, probs, odd in bits
    ]
    what = "entropy_bits is not that of a distribution with these top_probs"
    yield from wrong_rows(source, off_bits, what, "Give bits: nats / ln 2; and the full entropy.")


def _of_output(written: Written) -> Iterator[Problem]:
    """A lens that is said to be the model's output and is not."""
    lens, source = written.lens, written.sources["lens"]
    for name, kind in written.kinds.items():
        at_end = (lens["lens"] == name) & (lens["layer"] == written.n_layers) & bool(kind.output)
        off = lens["kl_bits"].astype(float) > _OUTPUT_KL_BITS
        what = (
            f"lens {name} is said to be the model's output at the last layer, but kl_bits is not 0"
        )
        wrong = at_end & (lens["site"] == "resid_post") & off
        yield from wrong_rows(source, wrong, what, "Say output: false, or mend the lens.")


def _of_tokens(written: Written) -> Iterator[Problem]:
    """Positions whose token is another than the prompt's."""
    tokens = dict(zip(written.prompts["prompt_id"], written.prompts["token_ids"], strict=True))
    strange = [
        _other_token(tokens.get(item), position, token)
        for item, position, token in written.lens[["prompt_id", "position", "token_id"]].values
    ]
    what = "token_id is not the prompt's token at this position"
    remedy = "Count positions from 0 without padding."
    yield from wrong_rows(written.sources["lens"], strange, what, remedy)


def _first(cell: Any) -> float:
    return float(cell[0]) if isinstance(cell, np.ndarray | list) and len(cell) else np.nan


def _unlike(lists: Any) -> bool:
    given = [cell for cell in lists if isinstance(cell, np.ndarray | list)]
    probs = lists[1] if isinstance(lists[1], np.ndarray | list) else []
    numbers = np.asarray(probs, dtype=float)
    falling = bool((np.diff(numbers) <= _SLACK).all()) and numbers.sum() <= 1 + _SLACK
    return len({len(cell) for cell in given}) > 1 or not falling


def _other_token(tokens: Any, position: Any, token: Any) -> bool:
    if not isinstance(tokens, np.ndarray | list) or pd.isna(position) or pd.isna(token):
        return False
    return not 0 <= position < len(tokens) or tokens[int(position)] != token


def _misplaced(answer: Any, rank: float, ties: Any, top: Any, probs: Any) -> bool:
    """Whether the best tokens show the answer at another rank; ties may stand in any order."""
    if not isinstance(top, np.ndarray | list) or pd.isna(answer) or pd.isna(rank):
        return False
    places = np.flatnonzero(np.asarray(top) == answer)
    last = rank + (0 if pd.isna(ties) else ties)
    if not len(places):
        tied = _equal(probs, int(rank) - 1, len(top) - 1) and pd.isna(ties)
        return bool(last <= len(top)) and not tied
    place = int(places[0]) + 1
    if place < rank:
        return True
    return place > last and not (pd.isna(ties) and _equal(probs, int(rank) - 1, place - 1))


def _equal(probs: Any, i: int, j: int) -> bool:
    """Whether two of the best tokens have one probability, as far as it was written."""
    if not isinstance(probs, np.ndarray | list) or max(i, j) >= len(probs):
        return False
    return abs(float(probs[i]) - float(probs[j])) <= _SLACK


def _impossible(entropy_bits: float, probs: Any, d_vocab: int | None) -> bool:
    """Whether no distribution with these best probabilities has this entropy.

    What is left of 1 lies in tokens of at most the last of them; it is most where spread evenly.
    """
    if not isinstance(probs, np.ndarray | list) or not len(probs) or np.isnan(entropy_bits):
        return False
    own = np.asarray(probs, dtype=float)
    there = own[own > 0]
    if not len(there):
        return False
    rest = max(1 - own.sum(), 0.0)
    of_these = float(-(there * np.log2(there)).sum())
    least = of_these - rest * np.log2(there[-1])
    most = np.inf
    if d_vocab and d_vocab > len(own):
        most = of_these - (rest * np.log2(rest / (d_vocab - len(own))) if rest > 0 else 0.0)
    slack = _ENTROPY_BITS + 0.01 * entropy_bits
    return bool(entropy_bits < least - slack or entropy_bits > most + slack)
