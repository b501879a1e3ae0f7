"""Tiny checkpoints as the second path sees them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness.tiny import PROMPTS, Case

if TYPE_CHECKING:
    from lensbench.quantized.loading.load import AdaptedModel


def adapted(case: Case, ends: Sequence[int] | None = None) -> AdaptedModel:
    """A fresh float32 model of this family; `ends` are the tokens that end a response.

    Loaded with Hugging Face's classes: some tiny families are unknown to lensbench's own loader.
    """
    from transformers import AutoTokenizer

    from lensbench.checkpoints.ref import ModelRef
    from lensbench.quantized.loading.load import AdaptedModel

    hf = case.fresh_hf()
    if ends is not None:
        hf.generation_config.eos_token_id = list(ends)
    tokenizer = AutoTokenizer.from_pretrained(case.folder)
    ref = ModelRef.of(case.folder, bits=32, use="generation")
    return AdaptedModel(ref, case.folder, hf, tokenizer, ref.facts())


def prompts_of(model: AdaptedModel) -> list[list[int]]:
    """Token ids of `PROMPTS`: four different lengths."""
    return [model.tokenizer(prompt).input_ids for prompt in PROMPTS]


def alone(model: AdaptedModel, prompt: Sequence[int], n_new: int, **how: object) -> list[int]:
    """What Hugging Face's own generate makes of one prompt, without padding."""
    import torch

    given = {"do_sample": False, "pad_token_id": 0} | how
    ids = torch.tensor([list(prompt)])
    out = model.base.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=n_new, **given
    )
    return out[0, len(prompt) :].tolist()


def only_known_tokens(model: AdaptedModel) -> AdaptedModel:
    """The same model, never saying an id that its tokenizer does not know."""
    import torch

    with torch.no_grad():
        model.base.get_output_embeddings().weight[len(model.tokenizer) :] = 0.0
    return model


def with_ends(model: AdaptedModel, n_new: int) -> AdaptedModel:
    """The same model, its end tokens chosen so that two of its rows stop early, at other times."""
    first, second = (alone(model, prompt, n_new) for prompt in prompts_of(model)[:2])
    model.base.generation_config.eos_token_id = [first[2], second[5]]
    return model


_ENDS: dict[tuple[Path, int], list[int]] = {}  # of the checkpoint in a folder, found once


def ending(case: Case, n_new: int) -> AdaptedModel:
    """A fresh model with such end tokens."""
    asked = (case.folder, n_new)
    if asked not in _ENDS:
        _ENDS[asked] = with_ends(adapted(case), n_new).base.generation_config.eos_token_id
    return adapted(case, _ENDS[asked])
