"""The trainer of a small model: the loss of every token, and the model kept at many steps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lensbench.files import sync_folder
from lensbench.progress import Watch, ignore
from lensbench.quantized.training.checkpoints import writing
from lensbench.quantized.training.exact import ExactTrainer, Items
from lensbench.quantized.training.labels import MASKED

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        TrainerState,
        TrainingArguments,
    )


def step_folder(out: Path, step: int) -> Path:
    """Where the model of a step is kept: a folder as any verb opens it."""
    return out / f"step-{step:06d}"


class PicoTrainer(ExactTrainer):
    """Trains a model on rows of tokens; at each step of `kept` it is validated and kept whole."""

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        tokenizer: PreTrainedTokenizerBase,
        rows: Int[Tensor, "row context"],
        n_train: int,
        kept: Sequence[int],
        watch: Watch = ignore,
    ) -> None:
        """The first `n_train` rows are trained on, the others validated on."""
        self.tokenizer, self.kept = tokenizer, set(kept)
        size = args.per_device_train_batch_size
        held_out = range(n_train, len(rows))
        batches = [held_out[i : i + size] for i in range(0, len(held_out), size)]

        def batch(items: Sequence[int]) -> dict[str, Tensor]:
            return inputs_of(rows[list(items)])

        items = Items([rows.shape[1]] * n_train, batches, batch)
        super().__init__(model, args, items, watch)

    def due(self, state: TrainerState) -> bool:
        """At each step that is kept."""
        return state.global_step in self.kept

    def nats(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """-ln p of every token but the first of each row, summed."""
        logits = model(input_ids=inputs["input_ids"], use_cache=False).logits[:, :-1]
        return cross_entropy(
            logits.float().flatten(0, 1), inputs["labels"][:, 1:].flatten(), reduction="sum"
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The validation loss; the model that has it is kept."""
        metrics = super().evaluate()
        self._keep(step_folder(Path(self.args.output_dir).parent, self.state.global_step))
        return metrics

    def _keep(self, folder: Path) -> None:
        """Write the whole model, all or nothing; what a run left there that went on is replaced."""
        torn = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(torn, ignore_errors=True)
        with writing(folder):
            self.model.save_pretrained(torn)
            self.tokenizer.save_pretrained(torn)
            shutil.rmtree(folder, ignore_errors=True)
            torn.rename(folder)
            sync_folder(folder.parent)


def inputs_of(rows: Int[Tensor, "row context"]) -> dict[str, Tensor]:
    """Rows of tokens as the inputs of a causal language model; nothing foresees the first."""
    ids = rows.long()
    labels = ids.clone()
    labels[:, 0] = MASKED
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
