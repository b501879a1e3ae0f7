"""The gate of the second path: what is generated is what the model says of the same tokens.

Classes that transformers lists as causal language models need not be: BERT's sees what comes after,
BART's counts padding as positions, and a cache may hold something else than was read. Nothing of
that raises an error; the answers are only other ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from lensbench.checkpoints.open import quiet
from lensbench.errors import refused_by_library
from lensbench.quantized.loading.reach_gate import is_due, require_within_bound
from lensbench.quantized.loading.reread import BOUND_BITS, off_bits, refusal

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel

# Of different lengths, so that together they are padded.
_TEXTS = ("The capital of Germany is", "Two plus two is four, and three plus three is six, so")
_N_NEW = 3  # of the prompt's pass, of the cache that it left, and of one that was added to
_FEW_TOKENS = 64  # of a prompt, and of its answer: a pass over more takes longer than the texts
# Tokens of the longest answer that passed, of batches with and without padding.
_passed: WeakKeyDictionary[AdaptedModel, dict[bool, int]] = WeakKeyDictionary()


# Token ids of some prompts -> their answers (`Generation`), greedy, so many tokens at most.
Answer = Callable[[Sequence[Sequence[int]], int], list[Any]]


def require_generates(model: AdaptedModel, together: bool, answer: Answer) -> None:
    """Measure the gate of a model once: prompts alone, and `together`, padded in one batch.

    The model generates a few tokens with its cache; a plain forward pass over prompt and answer,
    without cache and padding, must give each of them the same log-probability.

    Raises:
        GateError: it does not, with the largest difference.
        ModelError: the model's own class cannot run.
    """
    for padded in (False, True) if together else (False,):
        if not _passed_by(model, padded, 1):
            _require(model, padded, answer)
            _measured(model)[padded] = _N_NEW


def passed(model: AdaptedModel, prompts: Sequence[Sequence[int]], n_tokens: int) -> bool:
    """Whether the gate was measured already, of such prompts and answers of up to so many tokens.

    A cache may fail once it is longer, so an answer of twice as many tokens as were measured is
    measured anew, up to a limit; each that passes the model's `rope_switch` is, and the first that
    ends beyond its `reach`.
    """
    return not is_due(model, prompts, n_tokens) and _as_long_passed(model, prompts, n_tokens)


def _as_long_passed(model: AdaptedModel, prompts: Sequence[Sequence[int]], n_tokens: int) -> bool:
    if any(_crosses(model, prompt, n_tokens) for prompt in prompts):
        return False
    return _passed_by(model, are_padded(prompts), n_tokens)


def _passed_by(model: AdaptedModel, padded: bool, n_tokens: int) -> bool:
    return 2 * _measured(model).get(padded, 0) >= min(n_tokens, _FEW_TOKENS)


def _measured(model: AdaptedModel) -> dict[bool, int]:
    return _passed.setdefault(model, {})


def are_padded(prompts: Sequence[Sequence[int]]) -> bool:
    """Whether prompts get padding in one batch."""
    return len(set(map(len, prompts))) > 1


def _crosses(model: AdaptedModel, prompt: Sequence[int], n_new: int) -> bool:
    """Whether what was read before is rotated otherwise from some token of the answer on."""
    switch = model.rope_switch
    return switch is not None and len(prompt) <= switch < len(prompt) + n_new


def require_answers(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Any], answer: Answer
) -> None:
    """The same by answers of one batch that were made anyway: one pass more, over one row.

    The longest answer to a short prompt, padded where any is. Where there is none, or its first
    tokens differ, texts decide; nothing makes up for a difference in the mean over an answer.

    Raises as `require_generates`.
    """
    _require_as_long(model, prompts, answers, answer)
    require_within_bound(model, prompts, answers)


def _require_as_long(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Any], answer: Answer
) -> None:
    longest, padded = max(map(len, prompts)), are_padded(prompts)
    rows = [
        (prompt, one)
        for prompt, one in zip(prompts, answers, strict=True)
        if len(prompt) <= _FEW_TOKENS or _crosses(model, prompt, len(one.token_ids))
        if len(one.token_ids) >= _N_NEW and (len(prompt) < longest or not padded)
    ]
    n_new = [_n_compared(model, *row) for row in rows]
    if _as_long_passed(model, prompts, max(n_new, default=1)):
        return
    off, bound = None, BOUND_BITS[model.bits]
    if rows:
        off = off_bits(model, *rows[n_new.index(max(n_new))], range(max(n_new)))
        if bool(off[:_N_NEW].max() <= bound) and bool(off.mean() <= bound):
            _measured(model)[padded] = len(off)
            return
    for kind in (False, True) if padded else (False,):
        _require(model, kind, answer)  # says why, where short texts show it
    if off is not None and not bool(off.mean() <= bound):
        how = f"over {len(off)} tokens its cache gives other answers than one pass over the same"
        remedy = "Its cache may fail once it is longer: update transformers, or take another model."
        if model.rope_switch is not None:
            remedy = f"Keep prompt and answer within {model.rope_switch} tokens: beyond them it is "
            remedy += "rotated by other frequencies, and its cache keeps what was before."
        raise refusal(model, how, float(off.mean()), remedy)
    _measured(model)[padded] = _N_NEW if off is None else len(off)


def _n_compared(model: AdaptedModel, prompt: Sequence[int], answer: Any) -> int:
    """Tokens of an answer: the first ones, or all where what comes late is rotated otherwise."""
    n = len(answer.token_ids)
    return n if _crosses(model, prompt, n) else min(n, _FEW_TOKENS)


def runs(model: AdaptedModel) -> tuple[str, str]:
    """What is said where a model's own class cannot be run, and what to do."""
    remedy = "Check that this checkpoint runs with transformers itself, or take another model."
    return f"{model.ref.name} ({type(model.base).__name__}) cannot be run", remedy


def _require(model: AdaptedModel, padded: bool, answer: Answer) -> None:
    error = largest_error(model, padded, answer)
    if error <= BOUND_BITS[model.bits]:
        return
    if padded:
        how = "in a padded batch it gives other answers than to each prompt alone"
        remedy = "Run it with --batch-size 1."
    else:
        how = "what it generates is not what it says of the same tokens read at once"
        remedy = "It is no causal language model as it stands; take a decoder-only one."
    raise refusal(model, how, error, remedy)


def largest_error(model: AdaptedModel, padded: bool, answer: Answer) -> float:
    """The largest difference of a generated token's log-probability, in bits; NaN is one too."""
    prompts = [list(model.tokenizer(text).input_ids) for text in _TEXTS]
    prompts = [[token for token in ids if token < model.d_vocab] or [0] for ids in prompts]
    groups = [prompts] if padded else [[ids] for ids in prompts[:1]]
    errors = []
    with quiet(), refused_by_library(*runs(model)):
        for group in groups:
            answers = answer(group, _N_NEW)
            errors += [
                off_bits(model, prompt, one, range(min(_N_NEW, len(one.token_ids))))
                for prompt, one in zip(group, answers, strict=True)
            ]
    return float(torch.cat(errors).max())  # NaN where there is one
