"""The text model of a multimodal checkpoint: its own decoder and head, as a model of their own.

TransformerLens would fetch an image processor for the whole, and a search for blocks may find those
of the vision tower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.open import building, empty_model, text_config
from lensbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PROBE = (1, 2, 3, 5, 8)  # token ids
# Of the largest logit: the whole may mask, and so sum, otherwise.
_ERROR, _ERROR_HALF = 1e-5, 5e-2
# What says how a model was quantised, besides its modules.
_QUANTISED = (
    "hf_quantizer",
    "quantization_method",
    "is_quantized",
    "is_loaded_in_8bit",
    "is_loaded_in_4bit",
)


def empty_whole(config: Any, trust_remote_code: bool = False) -> PreTrainedModel:
    """The architecture, towers and all, with its shapes and no weights: it takes no memory."""
    import transformers as hf

    if text_config(config) is config:
        return empty_model(config, trust_remote_code)
    known = type(config) in hf.MODEL_FOR_MULTIMODAL_LM_MAPPING
    auto = hf.AutoModelForMultimodalLM if known else hf.AutoModelForImageTextToText
    with building(config):
        return auto.from_config(config, trust_remote_code=trust_remote_code)


def text_model(whole: PreTrainedModel) -> PreTrainedModel:
    """The text model of a loaded model; a model that is text only comes back.

    It is made of the modules of the whole, and must give the same logits for text. Raises
    ModelError when it does not, or when transformers builds it otherwise.
    """
    config = text_config(whole.config)
    if config is whole.config:
        return whole
    text = empty_model(config)
    decoder, head = whole.get_decoder(), whole.get_output_embeddings()
    own = getattr(text, text.base_model_prefix)
    if type(own) is not type(decoder) or type(head) is not torch.nn.Linear:
        raise _refused(whole, f"its decoder is a {type(decoder).__name__}")
    setattr(text, text.base_model_prefix, decoder)
    text.set_output_embeddings(head)
    text.config = decoder.config
    text.generation_config = whole.generation_config
    text.name_or_path = text.config.name_or_path = whole.name_or_path
    for name in _QUANTISED:
        if hasattr(whole, name):
            setattr(text, name, getattr(whole, name))
    text.eval()
    _require_same(whole.eval(), text)
    return text


def _require_same(whole: PreTrainedModel, text: PreTrainedModel) -> None:
    ids = torch.tensor([_PROBE], device=next(text.parameters()).device)
    if any(weight.is_meta for weight in text.parameters()):
        raise _refused(whole, "the text model has weights that the whole lacks")
    with torch.inference_mode():
        wanted, found = (model(input_ids=ids).logits.float() for model in (whole, text))
    error = float((wanted - found).abs().max() / wanted.abs().max())
    if not error <= (_ERROR if text.dtype == torch.float32 else _ERROR_HALF):
        raise _refused(whole, f"its logits differ by {error:.2g} of the largest")


def _refused(whole: PreTrainedModel, why: str) -> ModelError:
    return ModelError(
        f"The text model of this multimodal model ({whole.config.model_type}) cannot be read by "
        f"itself: {why}. Take a text-only model."
    )
