"""Text that a model writes by itself: ancestral sampling from its own distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lensbench.checkpoints.open import quiet
from lensbench.errors import ModelError, refused_by_library
from lensbench.models.model import LensModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SEPARATOR = "<|endoftext|>"  # between the texts of a pretraining, where nothing begins one


def start_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that comes before a text's first one.

    What the tokenizer itself puts there; else the separator of texts; else BOS or EOS.

    Raises ModelError where there is none of them.
    """
    before = tokenizer("").input_ids[:1]
    names = (_SEPARATOR, tokenizer.bos_token, tokenizer.eos_token)
    vocabulary = tokenizer.get_vocab()
    found = [*before, *(vocabulary[name] for name in names if name in vocabulary)]
    if not found:
        raise ModelError(
            "This model's tokenizer has no token that begins or ends a text, so the model cannot "
            "write one from its beginning. Give a corpus of texts."
        )
    return int(found[0])


@torch.inference_mode()
def write_texts(model: LensModel, seeds: Sequence[Sequence[int]], n_tokens: int) -> list[list[int]]:
    """Token ids of one text for each seed, at temperature 1, side by side.

    At most `n_tokens` of them, without the start; a special token ends a text and is not part of
    it. Each text draws from its own seed: beside which others it is written changes the rounding
    of its probabilities alone.

    Raises ModelError where the model gives NaN or Inf, or cannot be run with a cache of its keys.
    """
    start = start_of_text(model.tokenizer)
    # Drawn on the CPU: an accelerator adds up probabilities in an order of each time's own.
    draws = torch.tensor(np.stack([np.random.default_rng(s).random(n_tokens) for s in seeds]))
    ids = torch.full((len(seeds), 1), start, device=model.device)
    ends = torch.tensor(sorted({start, *model.tokenizer.all_special_ids}), device=model.device)
    ended = torch.zeros(len(seeds), dtype=torch.bool, device=model.device)
    cache, written = None, []
    remedy = "Give a corpus of texts."
    for column in draws.T:
        with quiet(), refused_by_library(f"{model.name} cannot write text", remedy):
            out = model.bridge.original_model(
                input_ids=ids, past_key_values=cache, use_cache=True, return_dict=True
            )
        cache = out.past_key_values
        ids = drawn(out.logits[:, -1].cpu(), column)[:, None].to(model.device)
        ended |= torch.isin(ids[:, 0], ends)
        written.append(ids[:, 0].masked_fill(ended, -1))
        if bool(ended.all()):
            break
    rows = torch.stack(written, dim=1).tolist()
    return [[token for token in row if token >= 0] for row in rows]


def drawn(
    logits: Float[Tensor, "row d_vocab"], uniform: Float[Tensor, " row"]
) -> Int[Tensor, " row"]:
    """The token of each row at which its cumulative probability passes a number in [0, 1).

    Raises ModelError for logits that are no numbers.
    """
    cumulative = logits.double().softmax(-1).cumsum(-1)
    if not bool(cumulative.isfinite().all()):
        raise ModelError("The model gives NaN or Inf for its own text. Give a corpus of texts.")
    place = (uniform * cumulative[:, -1])[:, None]
    return torch.searchsorted(cumulative, place, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
