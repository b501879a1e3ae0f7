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
_N_NEW = 3
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
        if padded not in _passed.setdefault(model, set()):
            _require(model, padded, answer)
            _passed[model].add(padded)


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
    kind = type(model.base).__name__
    remedy = "Check that this checkpoint runs with transformers itself, or take another model."
    errors = []
    with quiet(), refused_by_library(f"{model.ref.name} ({kind}) cannot be run", remedy):
        for group in groups:
            answers = answer(group, _N_NEW)
            errors += [_error(model, *both) for both in zip(group, answers, strict=True)]
    return float(torch.tensor(errors).max())  # NaN where there is one


def _error(model: AdaptedModel, prompt: Sequence[int], answer: Any) -> float:
    ids = torch.tensor([[*prompt, *answer.token_ids]], device=model.device)
    with torch.inference_mode():
        logits = model.base(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    own = logits.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
    said = torch.tensor(answer.token_logprob_bits, device=own.device)
    return float((own / math.log(2) - said).abs().max())
