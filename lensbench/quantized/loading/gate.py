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

from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.ref import Bits
from lensbench.errors import GateError, refused_by_library

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel

# Of different lengths, so that together they are padded.
_TEXTS = ("The capital of Germany is", "Two plus two is four, and three plus three is six, so")
_N_NEW = 3  # of the prompt's pass, of the cache that it left, and of one that was added to
_FEW_TOKENS = 64  # of a prompt: a pass over more takes longer than those of the texts
# Of a token's log-probability: other shapes sum in another order, in 16 bits coarsely; LLM.int8
# picks its outliers over a whole batch besides.
BOUND_BITS: dict[Bits, float] = {32: 1e-2, 16: 0.5, 8: 1.0, 4: 1.0}
_passed: WeakKeyDictionary[AdaptedModel, set[bool]] = WeakKeyDictionary()


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
            _passed[model].add(padded)


def passed(model: AdaptedModel, padded: bool) -> bool:
    """Whether the gate of a model was measured already, of batches with or without padding."""
    return padded in _passed.setdefault(model, set())


def require_answers(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], answers: Sequence[Any], answer: Answer
) -> None:
    """The same by greedy answers of one batch that were made anyway: one pass more, over one row.

    That of a short prompt, padded where any is. Where there is none, or it differs, texts decide.

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
    if passed(model, padded):
        return
    if rows and _error(model, *min(rows, key=lambda row: len(row[0]))) <= BOUND_BITS[model.bits]:
        _passed[model].add(padded)
    else:
        require_generates(model, padded, answer)


def runs(model: AdaptedModel) -> tuple[str, str]:
    """What is said where a model's own class cannot be run, and what to do."""
    remedy = "Check that this checkpoint runs with transformers itself, or take another model."
    return f"{model.ref.name} ({type(model.base).__name__}) cannot be run", remedy


def _require(model: AdaptedModel, padded: bool, answer: Answer) -> None:
    error, bound = largest_error(model, padded, answer), BOUND_BITS[model.bits]
    if error <= bound:
        return
    kind = type(model.base).__name__
    if padded:
        how = "in a padded batch it gives other answers than to each prompt alone"
        remedy = "Run it with --batch-size 1."
    else:
        how = "what it generates is not what it says of the same tokens read at once"
        remedy = "It is no causal language model as it stands; take a decoder-only one."
    raise GateError(
        f"{model.ref.name} ({kind}): {how}, by {error:.3g} bits (bound {bound:g}). {remedy}"
    )


def largest_error(model: AdaptedModel, padded: bool, answer: Answer) -> float:
    """The largest difference of a generated token's log-probability, in bits; NaN is one too."""
    prompts = [list(model.tokenizer(text).input_ids) for text in _TEXTS]
    prompts = [[token for token in ids if token < model.d_vocab] or [0] for ids in prompts]
    groups = [prompts] if padded else [[ids] for ids in prompts[:1]]
    errors = []
    with quiet(), refused_by_library(*runs(model)):
        for group in groups:
            answers = answer(group, _N_NEW)
            errors += [_error(model, *both) for both in zip(group, answers, strict=True)]
    return float(torch.tensor(errors).max())  # NaN where there is one


def _error(model: AdaptedModel, prompt: Sequence[int], answer: Any) -> float:
    new, bits = answer.token_ids[:_N_NEW], answer.token_logprob_bits[:_N_NEW]
    ids = torch.tensor([[*prompt, *new]], device=model.device)
    with torch.inference_mode():
        logits = model.base(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    own = logits.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    return float((own / math.log(2) - torch.tensor(bits, device=own.device)).abs().max())
