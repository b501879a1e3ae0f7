"""The gate of texts that are longer than some block looks back.

A sliding window, a chunk, or so many keys chosen by a score: up to there such a class is like any
other, and beyond it drops a part of its cache. What is wrong there no shorter answer shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from lensbench.quantized.loading.reread import BOUND_BITS, off_bits, refusal

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel

_FEWEST, _MOST = 3, 64  # tokens beyond the reach that are compared
# Whether rows without and with padding were measured beyond the model's reach.
_passed: WeakKeyDictionary[AdaptedModel, set[bool]] = WeakKeyDictionary()


def is_due(model: AdaptedModel, prompts: Sequence[Sequence[int]], n_tokens: int) -> bool:
    """Whether an answer of so many tokens to one of the prompts would be the first of its kind."""
    done, reach = _passed.get(model, set()), model.reach
    return any(
        is_padded not in done and _beyond(reach, prompt, n_tokens) is not None
        for prompt, is_padded in _with_padding(prompts)
    )


def require_within_bound(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Any]
) -> None:
    """Measure one row beyond the model's reach with padding, and one without, once each.

    Raises GateError where a plain pass gives its tokens other log-probabilities, in the mean.
    """
    done, reach = _passed.setdefault(model, set()), model.reach
    for (prompt, is_padded), answer in zip(_with_padding(prompts), answers, strict=True):
        tokens = _beyond(reach, prompt, len(answer.token_ids))
        if is_padded in done or tokens is None:
            continue
        error = float(off_bits(model, prompt, answer, tokens).mean())
        if not error <= BOUND_BITS[model.bits]:
            raise refusal(model, *_said(model, is_padded, error))
        done.add(is_padded)


def _with_padding(prompts: Sequence[Sequence[int]]) -> list[tuple[Sequence[int], bool]]:
    longest = max(map(len, prompts))
    return [(prompt, len(prompt) < longest) for prompt in prompts]


def _beyond(reach: int | None, prompt: Sequence[int], n_new: int) -> range | None:
    """The answer's first tokens that are predicted from more than the reach; None: too few."""
    if reach is None:
        return None
    start = max(0, reach + 1 - len(prompt))
    return range(start, min(n_new, start + _MOST)) if n_new >= start + _FEWEST else None


def _said(model: AdaptedModel, is_padded: bool, error: float) -> tuple[str, float, str]:
    batch = "in a padded batch " if is_padded else ""
    how = f"{batch}beyond {model.reach} tokens, of which its blocks look at a part, it gives other "
    remedy = f"Keep prompt and answer within {model.reach} tokens"
    if is_padded:
        remedy += ", or run it with --batch-size 1"
    return f"{how}answers than one pass over the same", error, f"{remedy}, or update transformers."
