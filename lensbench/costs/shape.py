"""A model's operations, from its shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from lensbench.checkpoints.blocks import keeps_some
from lensbench.checkpoints.config.shape import n_blocks, per_layer, width
from lensbench.checkpoints.open import empty_model
from lensbench.checkpoints.ref import Bits
from lensbench.costs.cost import Cost
from lensbench.models.model import LensModel
from lensbench.models.prefix import common_prefix
from lensbench.quantized.peaks import Batch, Verb, beside_bytes
from lensbench.quantized.precision import Sizes, sizes_in

_SOFTMAX = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class Shape:
    """What decides the operations of a model's passes and readings.

    `shares`: what texts of a batch begin with in common is run once (`models.prefix`).
    """

    d_model: int
    d_vocab: int
    block_weights: int  # of all blocks, that one token is multiplied with
    pair_width: int  # of all blocks: heads x (width of a query + width of a value)
    sizes: Sizes  # which decide the memory
    bits: Bits
    some_logits: bool = True  # the class makes logits of the wanted columns alone
    shares: bool = True

    def held(self, verb: Verb, batch: Batch) -> int:
        """Bytes that a verb holds beside the weights, with such a batch."""
        return beside_bytes(verb, self.sizes, self.bits, batch)

    @property
    def row_flops(self) -> float:
        """Of one row of logits, or of a sum over the head's rows."""
        return 2.0 * self.d_model * self.d_vocab

    def texts(self, token_ids: Sequence[Sequence[int]], n_columns: int) -> Cost:
        """One batch of texts, right padded, with the model's logits at so many columns."""
        n = common_prefix(token_ids) if self.shares else 0
        longest = max(map(len, token_ids))
        first = self.batch(1, n, 0, 0) if n else Cost()
        rest = self.batch(len(token_ids), longest - n, n_columns, n)
        return Cost(
            n_tokens=sum(map(len, token_ids)),
            n_padded=first.n_padded + rest.n_padded,
            n_passes=first.n_passes + rest.n_passes,
            flops=first.flops + rest.flops,
        )

    def batch(
        self, n_texts: int, n_each: int, n_columns: int, n_before: int = 0, share: float = 1.0
    ) -> Cost:
        """One forward pass over texts of so many tokens each, behind `n_before` that were run.

        `share`: of the blocks, those that the pass goes through.

        2 x (W x tokens + P x pairs + d_model x d_vocab x logits), with W the weights of the linear
        layers of all blocks (of experts those that a token is sent to), and P = heads x (width of a
        query + width of a value), over all blocks: Kaplan et al. 2020 (arXiv 2001.08361), table 1,
        and Chowdhery et al. 2022 (arXiv 2204.02311), appendix B. A pair is any two positions: eager
        attention computes those that a mask or a sliding window hides too.
        """
        n = n_texts * n_each
        logits = n_texts * (n_columns if self.some_logits else n_each) if n_columns else 0
        pairs = n * (n_before + n_each)
        products = self.block_weights * n + self.pair_width * pairs
        flops = 2.0 * products * share + self.row_flops * logits
        return Cost(n_tokens=n, n_padded=n, n_passes=1, flops=flops)

    def back(self, n_texts: int, n_each: int) -> Cost:
        """The gradients of such a pass by the states of every block, none of them by weights."""
        n = n_texts * n_each
        flops = 2.0 * (self.block_weights * n + 2 * self.pair_width * n * n_each)
        return Cost(n_padded=n, n_passes=1, flops=flops)


def shape_of(model: LensModel) -> Shape:
    """The shape of a model, with its weights or without.

    That what texts share can be run once is taken for granted, as `shares_prefixes` finds it of
    nearly all models. Raises ModelError for a config of which no model can be made.
    """
    shares = model.rope_switch is None and model.precisions is None
    own = shape_of_config(model.hf_config, model.dtype)
    bits = model.ref.bits if model.ref is not None and model.ref.bits else own.bits
    return replace(own, bits=bits, shares=shares)


def shape_of_config(config: Any, dtype: torch.dtype) -> Shape:
    """The same of a config alone. Raises ModelError as `empty_model`."""
    fresh = empty_model(config)  # TransformerLens takes modules apart
    head = fresh.get_output_embeddings()
    blocks = [(name, one) for name, one in fresh.named_modules() if one is not head]
    return Shape(
        d_model=width(config),
        d_vocab=int(head.weight.shape[0]),
        block_weights=sum(_met(name, one, config) for name, one in blocks),
        pair_width=_pair_width(config),
        sizes=sizes_in(fresh, config),
        bits=32 if dtype.itemsize > 2 else 16,
        some_logits=keeps_some(fresh),
    )


def _met(name: str, module: nn.Module, config: Any) -> int:
    """How many of a module's own weights a token is multiplied with."""
    weight = getattr(module, "weight", None)  # of a linear layer, or of a router to experts
    if weight is not None and weight.dim() == 2 and not isinstance(module, nn.Embedding):
        return int(weight.numel() * (_share(config) if ".experts." in name else 1))
    if name.endswith(".experts"):  # all of them in one tensor [expert, ...]
        stacked = [own for own in module.parameters(recurse=False) if own.dim() == 3]
        return int(sum(own.numel() for own in stacked) * _share(config))
    return 0


def _share(config: Any) -> float:
    """Of a block's experts, those that one token is sent to."""
    text = config.get_text_config(decoder=True)
    chosen = getattr(text, "num_experts_per_tok", None) or getattr(text, "top_k_experts", None)
    names = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    there = next((n for name in names if (n := getattr(text, name, None))), None)
    return chosen / there if chosen and there else 1.0


def _pair_width(config: Any) -> int:
    """Of all blocks with softmax attention; a state space has no pairs."""
    text = config.get_text_config(decoder=True)
    n_heads = per_layer(config, "num_attention_heads") or 0
    if not n_heads:
        return 0
    kinds = getattr(text, "layer_types", None)
    n = sum(kind in _SOFTMAX for kind in kinds) if kinds else n_blocks(config)
    d_head = per_layer(config, "head_dim") or width(config) // n_heads
    d_value = per_layer(config, "v_head_dim") or d_head
    d_query = getattr(text, "qk_head_dim", None) or d_head
    return int(n * n_heads * (d_query + d_value))
