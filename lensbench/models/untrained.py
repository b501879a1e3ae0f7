"""A model of the same shape that has learnt nothing: what is read of it, the reading computes."""

from __future__ import annotations

import torch

from lensbench.checkpoints.open import open_config, with_new_weights
from lensbench.models.bridge import bridged
from lensbench.models.model import LensModel, require_ref


def untrained(model: LensModel, seed: int = 0) -> LensModel:
    """The architecture of a loaded model with weights drawn anew, as before any training.

    It takes the memory of a second model in the same number format, whatever bits the first is in.
    The same seed gives the same weights.

    Raises RecordsError for a model that came as an object, ModelError as `load_model`.
    """
    from transformers import AutoModelForCausalLM

    config = open_config(require_ref(model, "an untrained model").folder)
    name = f"{model.base} (untrained)"
    hf_model = with_new_weights(AutoModelForCausalLM, config, seed, dtype=model.dtype)
    with torch.random.fork_rng(devices=[]):  # the bridge draws weights where it splits a matrix
        return bridged(hf_model.to(model.device).eval(), model.tokenizer, name, "drawn at random")
