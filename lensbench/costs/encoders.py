"""A text encoder's outline: its shapes and its tokenizer, without its weights."""

from __future__ import annotations

import torch
from torch import nn

from lensbench.checkpoints.config.shape import width
from lensbench.checkpoints.open import building, open_tokenizer, quiet, whole_config
from lensbench.checkpoints.placement import Placement
from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.outlined import Outlined, remembered
from lensbench.costs.shape import Shape
from lensbench.models.text_encoder import TextEncoder
from lensbench.quantized.precision import sizes_in

_BEHIND = "pooler"  # what stands behind the blocks; of each text it sees one token


@remembered
def encoder_outlined(ref: ModelRef, dtype: str | None, device: str | None) -> Outlined[TextEncoder]:
    """The encoder as `load_encoder` would load it, in float32.

    Raises ModelError for one that is not here, or of which no model can be made.
    """
    from transformers import AutoModel

    config = whole_config(ref.folder)
    with building(config):
        hf = AutoModel.from_config(config)
    with quiet():
        tokenizer = open_tokenizer(ref.folder)
    model = TextEncoder(ref.name, ref.located.source, hf, tokenizer, ref.folder)
    linear = [
        int(own.weight.numel())
        for name, own in hf.named_modules()
        if isinstance(own, nn.Linear) and _BEHIND not in name
    ]
    shape = Shape(
        d_model=width(config),
        d_vocab=model.d_vocab,
        block_weights=sum(linear),
        pair_width=2 * model.n_layers * width(config),  # of all heads, queries and values
        sizes=sizes_in(hf, config),
        bits=32,
        shares=False,
    )
    return Outlined(model, shape, torch.float32, Placement.of(device))
