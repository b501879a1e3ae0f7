"""Training an encoder's head, with an adapter or all weights, by the Trainer that others use."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import TrainerState, TrainingArguments

from lensbench.checkpoints.open import quiet
from lensbench.classification.probe import BATCH_TOKENS
from lensbench.classification.spec import ClassifySpec
from lensbench.errors import ModelError
from lensbench.progress import Watch
from lensbench.prompts.batch import make_batch, plan_batches
from lensbench.quantized.training.checkpoints import drop_torn, latest
from lensbench.quantized.training.exact import ExactTrainer, Items, arguments, enough_memory
from lensbench.quantized.training.labels import MASKED

_SMALLER = "a smaller --batch-size or --max-length"


@dataclass(frozen=True)
class Labelled:
    """Texts as tokens, and the number of each one's label."""

    token_ids: Sequence[Sequence[int]]
    labels: Sequence[int]
    pad_id: int

    def batch(self, items: Sequence[int]) -> dict[str, Tensor]:
        """Some of them; a label stands behind a masked one, as that of a next token does."""
        made = make_batch(items, self.token_ids, pad_id=self.pad_id)
        labels = torch.tensor([[MASKED, self.labels[item]] for item in items])
        return {
            "input_ids": made.token_ids,
            "attention_mask": made.attention_mask,
            "labels": labels,
        }


class LabelTrainer(ExactTrainer):
    """Trains on the cross entropy of one label a text."""

    remedy = "Give a smaller learning rate, or more warmup."

    def __init__(
        self, model: nn.Module, args: TrainingArguments, texts: Labelled, watch: Watch
    ) -> None:
        items = Items([len(ids) for ids in texts.token_ids], [], texts.batch)
        super().__init__(model, args, items, watch)

    def due(self, state: TrainerState) -> bool:
        """Never: what is tested is not looked at before the end."""
        return False

    def nats(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """-ln p of the label of each text of a batch, summed."""
        logits = model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
        ).logits  # [batch, label]
        return cross_entropy(logits.float(), inputs["labels"][:, 1], reduction="sum")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights, or the adapter and its head, alone."""
        assert output_dir is not None
        keep(self.model, Path(output_dir))


def keep(model: Any, folder: Path) -> None:
    """Write what was learnt as safetensors: the whole model, or an adapter with its head."""
    adapted = hasattr(model, "active_adapter") and hasattr(model, "peft_type")
    with quiet():
        model.save_pretrained(folder, **({"save_embedding_layers": False} if adapted else {}))


def fit(
    model: nn.Module,
    texts: Labelled,
    spec: ClassifySpec,
    seed: int,
    peak_learning_rate: float,
    folder: Path,
    watch: Watch,
) -> None:
    """Train a model in place, on from a checkpoint in `folder` where there is one.

    Raises ModelError where the loss is NaN or infinite, or there is too little memory.
    """
    steps = spec.epochs * math.ceil(len(texts.labels) / spec.batch_size)
    drop_torn(folder)
    checkpoint = latest(folder)
    args = arguments(
        folder,
        steps=steps,
        batch_size=spec.batch_size,
        peak_learning_rate=peak_learning_rate,
        warmup=spec.warmup,
        seed=seed,
        device=spec.device,
        checkpoint_every=spec.checkpoint_every if steps > spec.checkpoint_every else None,
        fresh=checkpoint is None,
    )
    with quiet(), enough_memory(_SMALLER):
        trainer = LabelTrainer(model, args, texts, watch)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    shutil.rmtree(folder, ignore_errors=True)


def predicted(model: Any, texts: Labelled) -> Float[Tensor, "text label"]:
    """What a model finds of each text: probabilities of the labels, float64.

    Raises ModelError where they are NaN.
    """
    model.eval()
    device = next(model.parameters()).device
    found: dict[int, Tensor] = {}
    for items in plan_batches([len(ids) for ids in texts.token_ids], BATCH_TOKENS):
        batch = texts.batch(items)
        with torch.inference_mode():
            logits = model(
                input_ids=batch["input_ids"].to(device),
                attention_mask=batch["attention_mask"].to(device),
            ).logits
        found |= dict(zip(items, logits.cpu().double().softmax(-1), strict=True))
    probs = torch.stack([found[item] for item in sorted(found)])
    if not bool(probs.isfinite().all()):
        raise ModelError("The trained classifier gives NaN. Give a smaller learning rate.")
    return probs
