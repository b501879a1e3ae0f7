"""Training on responses: the loss counts them alone, and the head is computed there alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.hooks import RemovableHandle

from lensbench.progress import Watch, ignore
from lensbench.prompts.batch import plan_batches
from lensbench.quantized.training.exact import ExactTrainer, Items
from lensbench.quantized.training.examples import Example, batch_of, parted
from lensbench.quantized.training.labels import MASKED
from lensbench.quantized.training.prefix import Entry, States

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainerState, TrainingArguments


@dataclass(frozen=True)
class Frozen:
    """The kept states of a model without its lower blocks, and what hands them to the rest."""

    states: States
    entry: Entry


class ResponseTrainer(ExactTrainer):
    """Trains an adapter; the loss is the mean over response tokens."""

    remedy = (
        "Train into another folder with a smaller --peak-learning-rate, more --warmup or --bits 32."
    )

    def __init__(
        self,
        model: PeftModel,
        args: TrainingArguments,
        examples: Sequence[Example],
        n_train: int,
        eval_tokens: int,
        frozen: Frozen | None = None,
        watch: Watch = ignore,
        switch: int | None = None,
    ) -> None:
        """The first `n_train` of `examples` are trained on, the others evaluated.

        `switch`: the tokens beyond which a sequence is read by other rotary frequencies.
        """
        self.frozen, self.switch = frozen, switch
        lengths = [len(example.token_ids) for example in examples]
        batches = plan_batches(lengths[n_train:], eval_tokens, switch)
        evaluated = [[n_train + i for i in batch] for batch in batches]
        items = Items(lengths[:n_train], evaluated, lambda some: batch_of(examples, some))
        super().__init__(model, args, items, watch)

    def due(self, state: TrainerState) -> bool:
        """At the end of each epoch, and after the last step."""
        epoch_ends = state.epoch is not None and float(state.epoch).is_integer()
        return bool(self.items.evaluated) and (epoch_ends or state.global_step >= state.max_steps)

    def nats(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """-ln p of all response tokens of a batch, summed."""
        parts = [self._nats(model, part) for part in parted(inputs, self.switch)]
        return torch.stack(parts).sum()

    def _nats(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """The same of rows that may go through the model together."""
        labels = inputs["labels"][:, 1:]  # [batch, pos - 1]: what position t should say next
        if self.frozen is not None:
            states = self.frozen.states.batch(inputs["items"].tolist())
            self.frozen.entry.states = states.to(labels.device)
        head = self.accelerator.unwrap_model(model).get_base_model().get_output_embeddings()
        with only_at(head, pad(labels != MASKED, (0, 1))):
            logits = model(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                use_cache=False,
            ).logits[0]  # [labels, d_vocab]
        return cross_entropy(logits.float(), labels[labels != MASKED], reduction="sum")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter alone: no pickled arguments, no copy of the embedding."""
        self.model.save_pretrained(output_dir, save_embedding_layers=False)


def only_at(head: nn.Module, wanted: Bool[Tensor, "batch pos"]) -> RemovableHandle:
    """Let the head read the wanted positions only: its output is [1, wanted, d_vocab]."""

    def choose(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0][wanted][None], *arguments[1:])

    return head.register_forward_pre_hook(choose)
