"""A model that is drawn from: loaded, its prompts as tokens, and one pass over each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.checkpoints.blocks import keeps_some
from lensbench.checkpoints.open import quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import InputProblems, ModelError, Problem, refused_by_library
from lensbench.models.adapted import with_bits
from lensbench.prompts.encode import Encoder
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.sampling.settings import Setting

_REMEDY = "Take a decoder-only model that transformers can generate with."


@dataclass(frozen=True, eq=False)
class Start:
    """A prompt that was read: the next token's logits, and keys and values of what stands before.

    `cache` is None where nothing is to follow.
    """

    token_ids: tuple[int, ...]
    logits: Float[Tensor, " d_vocab"]
    cache: Any = None


def load_sampled(model: str | ModelRef | AdaptedModel, device: str | None = None) -> AdaptedModel:
    """A plain Hugging Face model by its name, or as `load_quantized` returns it.

    Without bits in its name it is in float32, or in half precision where `load_model` would have
    it so.

    Raises ModelError and InputProblems as `load_quantized`.
    """
    if isinstance(model, AdaptedModel):
        return model
    if not isinstance(model, str | ModelRef):
        what = f"{type(model).__name__} is no model to draw from"
        remedy = "Give a name, or what lensbench.load_quantized(...) returns."
        raise InputProblems([Problem("model", what, remedy)])
    return load_quantized(with_bits(ModelRef.of(model), None, device), device=device)


def encoder_of(model: AdaptedModel, where: str = "prompts") -> Encoder:
    """Makes tokens of prompts; `where` they are from, for what it says."""
    return Encoder(model.tokenizer, model.n_ctx, "plain", where, model.d_vocab)


def too_large(model: AdaptedModel, settings: Sequence[Setting]) -> list[Problem]:
    """Settings that keep more tokens than there are."""
    what = f"the model's vocabulary has {model.d_vocab:,} tokens"
    remedy = f"Give 0 (keeps every token) to {model.d_vocab}."
    return [
        Problem(setting.name, what, remedy) for setting in settings if setting.top_k > model.d_vocab
    ]


def no_room(
    model: AdaptedModel, token_ids: Sequence[int], n_new: int, where: str, item: str | None = None
) -> list[Problem]:
    """A prompt behind which so many tokens do not fit."""
    if len(token_ids) + n_new <= model.n_ctx:
        return []
    what = f"{len(token_ids):,} tokens and {n_new:,} new ones, the context holds {model.n_ctx:,}"
    return [Problem(where, what, "Shorten it, or write fewer tokens.", item)]


def read(model: AdaptedModel, token_ids: tuple[int, ...], follow: bool = False) -> Start:
    """One pass over a prompt; with `follow` what stands before is kept.

    Raises ModelError for logits that are no numbers, and a class that cannot be run so.
    """
    ids = torch.tensor([list(token_ids)], device=model.device)
    cache = empty_cache(model) if follow else None
    return Start(token_ids, step(model, ids, cache)[0], cache)


def step(model: AdaptedModel, ids: Tensor, cache: Any) -> Float[Tensor, "row d_vocab"]:
    """The logits behind the last of these tokens, in float32; `cache` grows by them.

    Raises ModelError as `read`.
    """
    given: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None:
        given["past_key_values"] = cache
    if keeps_some(model.base):
        given["logits_to_keep"] = 1
    kind = type(model.base).__name__
    with (
        quiet(),
        torch.inference_mode(),
        refused_by_library(f"{model.ref.name} ({kind}) cannot be run so", _REMEDY),
    ):
        found: Tensor = model.base(input_ids=ids, **given).logits[:, -1].float()
    if not bool(found.max() < torch.inf):  # the largest of any with NaN is NaN
        raise ModelError(
            f"{model.ref.name} gives NaN or Inf. Its weights may be damaged (fetch them again), or "
            "exceed the range of this precision: write @32 behind its name."
        )
    return found


def empty_cache(model: AdaptedModel) -> Any:
    """Of keys and values. Raises ModelError for a class that keeps something else."""
    from transformers import DynamicCache

    if getattr(model.base, "_is_stateful", False):
        kind = type(model.base).__name__
        raise ModelError(
            f"{model.ref.name} ({kind}) keeps a state in place of keys and values, which this verb "
            f"does not branch from. {_REMEDY}"
        )
    return DynamicCache(config=model.base.config)
