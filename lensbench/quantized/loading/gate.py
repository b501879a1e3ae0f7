"""The gate of the second path: what is generated is what the model says of the same tokens.

Classes that transformers lists as causal language models need not be: BERT's sees what comes after,
BART's counts padding as positions, and a cache may hold something else than was read. Nothing of
that raises an error; the answers are only other ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.ref import Bits
from lensbench.errors import GateError, refused_by_library

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel

# Of different lengths, so that together they are padded.
_TEXTS = ("The capital of Germany is", "Two plus two is four, and three plus three is six, so")
_N_NEW = 3  # of the prompt's pass, of the cache that it left, and of one that was added to
_FEW_TOKENS = 64  # of a prompt, and of its answer: a pass over more takes longer than the texts
# Of a token's log-probability: other shapes sum in another order, in 16 bits coarsely; LLM.int8
# picks its outliers over a whole batch besides.
BOUND_BITS: dict[Bits, float] = {32: 2e-3, 16: 0.5, 8: 1.0, 4: 1.0}
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
        if not passed(model, padded):
            _require(model, padded, answer)
            _passed[model][padded] = _N_NEW


def passed(model: AdaptedModel, padded: bool, n_tokens: int = 1) -> bool:
    """Whether the gate was measured already, of batches with or without padding.

    `n_tokens`: of an answer; a cache may fail once it is longer, so one of twice as many tokens
    as were measured is measured anew, up to a limit.
    """
    known = _passed.setdefault(model, {}).get(padded, 0)
    return 2 * known >= min(n_tokens, _FEW_TOKENS)


def require_answers(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Any], answer: Answer
) -> None:
    """The same by answers of one batch that were made anyway: one pass more, over one row.

    The longest answer to a short prompt, padded where any is. Where there is none, or its first
    tokens differ, texts decide; nothing makes up for a difference in the mean over an answer.

    Raises as `require_generates`.
    """
    longest = max(map(len, prompts))
    padded = min(map(len, prompts)) < longest
    rows = [
        (prompt, one)
        for prompt, one in zip(prompts, answers, strict=True)
        if len(prompt) <= _FEW_TOKENS and len(one.token_ids) >= _N_NEW
        if len(prompt) < longest or not padded
    ]
    n_new = [min(len(one.token_ids), _FEW_TOKENS) for _, one in rows]
    if passed(model, padded, max(n_new, default=1)):
        return
    off, bound = None, BOUND_BITS[model.bits]
    if rows:
        off = _off_bits(model, *rows[n_new.index(max(n_new))])
        if bool(off[:_N_NEW].max() <= bound) and bool(off.mean() <= bound):
            _passed[model][padded] = len(off)
            return
    for kind in (False, True) if padded else (False,):
        _require(model, kind, answer)  # says why, where short texts show it
    if off is not None and not bool(off.mean() <= bound):
        how = f"over {len(off)} tokens its cache gives other answers than one pass over the same"
        remedy = "Its cache may fail once it is longer: update transformers, or take another model."
        raise _refusal(model, how, float(off.mean()), remedy)
    _passed[model][padded] = _N_NEW if off is None else len(off)


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
    raise _refusal(model, how, error, remedy)


def _refusal(model: AdaptedModel, how: str, error: float, remedy: str) -> GateError:
    name, kind, bound = model.ref.name, type(model.base).__name__, BOUND_BITS[model.bits]
    return GateError(f"{name} ({kind}): {how}, by {error:.3g} bits (bound {bound:g}). {remedy}")


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
                _off_bits(model, *both)[:_N_NEW] for both in zip(group, answers, strict=True)
            ]
    return float(torch.cat(errors).max())  # NaN where there is one


def _off_bits(model: AdaptedModel, prompt: Sequence[int], answer: Any) -> Float[Tensor, " token"]:
    """How far each token of an answer is from what one pass over prompt and answer gives it.

    A cache may go wrong once it is longer; and of many tokens the worst is far off in low
    precision (1.6 bits among 768 tokens in 8 bits), so that of a whole answer the mean counts.
    """
    new, bits = answer.token_ids[:_FEW_TOKENS], answer.token_logprob_bits[:_FEW_TOKENS]
    ids = torch.tensor([[*prompt, *new]], device=model.device)
    with torch.inference_mode():
        logits = model.base(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    own = logits.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    return (own / math.log(2) - torch.tensor(bits, device=own.device)).abs()
