"""An encoder with a new head that tells labels apart, and texts as it reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from lensbench.checkpoints.devices import pick_device, require_float32
from lensbench.checkpoints.open import quiet, whole_config, with_new_weights
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.stored.finite import require_finite
from lensbench.models.text_encoder import open_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_POOLER = "pooler"


@dataclass(frozen=True)
class Texts:
    """Texts as the encoder's tokens, special ones included, and how many were cut to fit."""

    token_ids: list[list[int]]
    n_cut: int


def encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int) -> Texts:
    """At most `longest` tokens of each; the end of a longer one is left out, and counted."""
    found = tokenizer(list(texts), truncation=True, max_length=longest).input_ids
    whole = tokenizer(list(texts), truncation=False, verbose=False).input_ids
    cut = sum(len(own) > longest for own in whole)
    return Texts([list(ids) for ids in found], cut)


def new_classifier(
    ref: ModelRef, labels: Sequence[str], seed: int, device: str | None
) -> tuple[PreTrainedModel, list[str]]:
    """The encoder's blocks under transformers' own head for classification, and what is new there.

    The seed alone decides the new weights: those of the head, whatever head the checkpoint has,
    and of a pooler before it that the checkpoint lacks.

    Raises ModelError as `load_encoder` does.
    """
    from transformers import AutoModelForSequenceClassification

    folder = ref.folder
    config: Any = whole_config(folder)
    names = dict(enumerate(labels))
    config.num_labels = len(labels)
    config.id2label, config.label2id = names, {label: i for i, label in names.items()}
    config.problem_type = "single_label_classification"
    with quiet():
        blocks, missing = open_blocks(folder, whole_config(folder))
        hf = with_new_weights(AutoModelForSequenceClassification, config, seed)
        state = {k: v for k, v in blocks.state_dict().items() if k not in missing}
        found = hf.base_model.load_state_dict(state, strict=False)
    assert all(name.startswith(_POOLER) for name in [*found.missing_keys, *found.unexpected_keys])
    require_finite(hf, str(ref))
    heads = [name for name, own in hf.named_children() if own is not hf.base_model]
    heads = [name for name in heads if any(True for _ in hf.get_submodule(name).parameters())]
    if found.missing_keys:
        heads.append(_POOLER)
    where = pick_device(device)
    require_float32(torch.device(where))
    return hf.to(where).float(), heads
