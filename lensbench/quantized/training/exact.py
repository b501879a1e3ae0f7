"""The Trainer of transformers, with what exact and resumable training needs, whatever is learnt."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from lensbench.checkpoints.devices import pick_device
from lensbench.errors import ModelError
from lensbench.progress import Progress, Watch, ignore
from lensbench.quantized.generation.batching import out_of_memory_as
from lensbench.quantized.training.checkpoints import latest, seal, writing
from lensbench.quantized.training.labels import n_labels


class EpochOrder(Sampler[int]):
    """Examples shuffled, then grouped by length; the seed and the epoch decide the order alone.

    So a run that goes on in the middle of an epoch meets the batches that it would have met.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The trainer says which epoch comes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        chance = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=chance))


def in_steps(lengths: Sequence[int], size: int, seed: int) -> Iterator[list[int]]:
    """Of each step its items, epoch after epoch without an end, as a trainer takes them."""
    order = EpochOrder(lengths, size, seed)
    for epoch in count():
        order.set_epoch(epoch)
        items = list(order)
        yield from (items[i : i + size] for i in range(0, len(items), size))


@dataclass(frozen=True)
class Items:
    """What is learnt and what is evaluated, as numbers, and how some of them become a batch.

    `lengths`: tokens of each item to learn from; those are numbered from 0. `evaluated`: the
    batches of the others. `batch` gives `input_ids`, `attention_mask` and `labels`, the first of
    which is masked.
    """

    lengths: Sequence[int]
    evaluated: Sequence[Sequence[int]]
    batch: Callable[[Sequence[int]], dict[str, Tensor]]


class ExactTrainer(Trainer):
    """Trainer whose loss is a mean over the labels of a whole step, and never NaN.

    The same seed gives the same curve, interrupted or not. A subclass says what the loss of a batch
    is (`nats`), when it is evaluated (`due`) and what to do about a loss that breaks (`remedy`).
    """

    remedy = "Train into another folder with a smaller --peak-learning-rate or more --warmup."

    def __init__(
        self, model: nn.Module, args: TrainingArguments, items: Items, watch: Watch = ignore
    ) -> None:
        self.items = items
        self.control: Any
        super().__init__(
            model,
            args,
            train_dataset=range(len(items.lengths)),  # the collator turns numbers into batches
            data_collator=items.batch,
            callbacks=[_Flow(watch, self.due)],
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True  # the loss is divided by the labels of the step
        self._started, self._tokens = 0.0, 0

    def nats(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """-ln p of all labels of a batch, summed."""
        raise NotImplementedError

    def due(self, state: TrainerState) -> bool:
        """Whether the model is evaluated after this step."""
        raise NotImplementedError

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochOrder(self.items.lengths, step, self.args.seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The batches of one optimiser step; here its clock starts."""
        self._started = time.perf_counter()
        samples, n = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._tokens = sum(int(sample["attention_mask"].sum()) for sample in samples)
        return samples, n

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Nats: the sum over the batch's labels, divided by those of the whole step."""
        assert num_items_in_batch is not None
        loss = self.nats(model, inputs) / num_items_in_batch
        if not bool(loss.isfinite()):
            self._refuse("loss", loss.item(), self.state.global_step + 1)
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean over all labels that are evaluated, nats."""
        if not self.items.evaluated:
            return {}
        self.model.eval()
        nats, n = 0.0, 0
        with torch.no_grad():
            for items in self.items.evaluated:
                inputs = self._prepare_inputs(self.items.batch(items))
                nats += float(self.nats(self.model, inputs))
                n += n_labels(inputs["labels"])
        metrics = {"eval_loss": nats / n}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Keep a row; a loss row with its speed, and never one that is not finite."""
        if "loss" in logs:
            if not math.isfinite(logs["grad_norm"]):
                self._refuse("gradient norm", logs["grad_norm"], self.state.global_step)
            logs["tokens_per_s"] = self._tokens / (time.perf_counter() - self._started)
        super().log(logs, start_time)

    def _refuse(self, what: str, value: float, step: int) -> NoReturn:
        """Stop before anything that came of it is kept."""
        kept = latest(Path(self.args.output_dir))
        where = f"the last good checkpoint is {kept}" if kept else "no checkpoint was due before"
        raise ModelError(
            f"The {what} is {value} in step {step}, so training stopped; {where}. {self.remedy}"
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights alone: no pickled arguments."""
        self.model.save_pretrained(output_dir)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Everything that going on needs. The checkpoint before is kept until this one is whole."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with writing(folder):
            super()._save_checkpoint(model, trial)
            seal(folder)


class _Flow(TrainerCallback):
    """Evaluates before the checkpoint of a step, so that the row is in it; tells of each step."""

    def __init__(self, watch: Watch, due: Callable[[TrainerState], bool]) -> None:
        self.watch, self.due = watch, due

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_evaluate = self.due(state)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        detail = "" if loss is None else f"loss {loss:.3f}"
        self.watch(Progress("training", state.global_step, state.max_steps, "steps", detail))


@contextmanager
def enough_memory(smaller: str) -> Iterator[None]:
    """Say what takes less memory, `smaller`, when there is too little of it."""
    with out_of_memory_as(
        lambda _: (
            f"There is too little memory for a training step. Try {smaller}. Give another "
            "folder, for these are other settings."
        )
    ):
        yield


def arguments(
    folder: Path,
    *,
    steps: int,
    batch_size: int,
    gradient_accumulation: int = 1,
    peak_learning_rate: float,
    weight_decay: float = 0.0,
    beta2: float = 0.999,
    warmup: float,
    seed: int,
    device: str | None,
    checkpoint_every: int | None,
    fresh: bool,
) -> TrainingArguments:
    """AdamW, a cosine after a warm-up, gradients clipped to norm 1; every step is logged.

    `warmup`: share of the steps. `fresh`: no checkpoint is gone on from, so that the model is
    evaluated before the first step. `checkpoint_every`: None writes none.
    """
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=gradient_accumulation,
        max_steps=steps,
        optim="adamw_torch",
        learning_rate=peak_learning_rate,
        weight_decay=weight_decay,
        adam_beta2=beta2,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(warmup * steps),
        seed=seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_on_start=fresh,
        save_strategy="steps" if checkpoint_every else "no",
        save_steps=checkpoint_every or steps,
        save_total_limit=2,
        use_cpu=pick_device(device) == "cpu",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
    )
