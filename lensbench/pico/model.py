"""The model itself: StableLM's class, every part of it turned on (Bellagente et al. 2024).

With its full rotary fraction it is a decoder of LayerNorms, rotary positions, attention without
biases and a gated MLP. There is no code of our own, so that whatever reads a StableLM reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.open import with_new_weights
from lensbench.pico.spec import Plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_INITIAL = 0.5  # standard deviation of first weights, times the root of the width: GPT-2's is .55


def config_of(plan: Plan, d_vocab: int, end_token: int) -> Any:
    """The config of such a model, as its folder holds it. `d_vocab`: tokens of its tokenizer."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        "stablelm",
        vocab_size=d_vocab,
        hidden_size=plan.width,
        intermediate_size=plan.mlp_width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        max_position_embeddings=plan.max_position,
        partial_rotary_factor=1.0,
        initializer_range=_INITIAL * plan.width**-0.5,
        hidden_dropout=plan.dropout,
        attention_dropout=plan.dropout,
        bos_token_id=None,
        eos_token_id=end_token,
        tie_word_embeddings=False,
    )


def new_model(config: Any, seed: int) -> PreTrainedModel:
    """With weights drawn at random, float32; the seed alone decides them."""
    from transformers import AutoModelForCausalLM

    return with_new_weights(AutoModelForCausalLM, config, seed, dtype=torch.float32)
