"""How likely a model finds given responses, in bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from lensbench.errors import ModelError
from lensbench.prompts.batch import make_batch

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel


def response_bits(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> list[float]:
    """-log2 p(response | prompt) of each pair of token ids, summed over the response's tokens.

    One forward pass over all pairs, padded on the left so that the responses end together; the
    head is computed where they are and nowhere else. In LLM.int8 with a threshold a pair's number
    depends a little on its neighbours.

    Raises ModelError when the model puts out NaN.
    """
    whole = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    batch = make_batch(range(len(whole)), whole, "left")
    kept = max(len(response) for response in responses) + 1  # what precedes a token predicts it
    with torch.no_grad():
        logits = model.hf(
            input_ids=batch.token_ids.to(model.device),
            attention_mask=batch.attention_mask.to(model.device),
            position_ids=batch.position_ids.to(model.device),
            use_cache=False,
            logits_to_keep=kept,
        ).logits  # [batch, kept, d_vocab]
    bits = []
    for row, response in zip(logits, responses, strict=True):
        wanted = torch.tensor(response, device=row.device)
        nats = cross_entropy(row[-len(response) - 1 : -1].float(), wanted, reduction="sum")
        bits.append(float(nats) / math.log(2))
    if any(math.isnan(value) for value in bits):
        raise ModelError(
            "The model puts out NaN. Its weights may be damaged (fetch them again), or exceed the "
            "range of this precision: write @32 behind its name."
        )
    return bits
