"""The Trainer of transformers, with what exact and resumable training on responses needs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from jaxtyping import Bool
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.utils.data import Sampler
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from lensbench.errors import ModelError, RecordsError, first_line
from lensbench.files import sha256_of, write_text
from lensbench.json_text import read_json
from lensbench.progress import Progress, Watch, ignore
from lensbench.prompts.batch import plan_batches
from lensbench.quantized.training.examples import MASKED, Example, batch_of, parted
from lensbench.quantized.training.prefix import Entry, States

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainingArguments

WHOLE = "whole"  # a file that is put into a checkpoint after everything else


@dataclass(frozen=True)
class Frozen:
    """The kept states of a model without its lower blocks, and what hands them to the rest."""

    states: States
    entry: Entry


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


class ResponseTrainer(Trainer):
    """Trainer whose loss is the mean over response tokens, with the head computed there alone."""

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
        self.examples, self.n_train, self.frozen = examples, n_train, frozen
        self.switch = switch
        self.control: Any
        self.eval_batches = self._plan_evaluation(eval_tokens)
        super().__init__(
            model,
            args,
            train_dataset=range(n_train),  # the collator turns numbers into batches
            data_collator=lambda items: batch_of(examples, items),
            callbacks=[_Flow(watch, bool(self.eval_batches))],
        )
        self.model_accepts_loss_kwargs = True  # the loss is divided by the tokens of the step
        self._started, self._tokens = 0.0, 0

    def _plan_evaluation(self, batch_tokens: int) -> list[list[int]]:
        lengths = [len(example.token_ids) for example in self.examples[self.n_train :]]
        batches = plan_batches(lengths, batch_tokens, self.switch)
        return [[self.n_train + i for i in batch] for batch in batches]

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        lengths = [len(example.token_ids) for example in self.examples[: self.n_train]]
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return EpochOrder(lengths, step, self.args.seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The batches of one optimiser step; here its clock starts."""
        self._started = time.perf_counter()
        samples, n_labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._tokens = sum(int(sample["attention_mask"].sum()) for sample in samples)
        return samples, n_labels

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Nats: the sum over the batch's response tokens, divided by those of the whole step."""
        assert num_items_in_batch is not None
        loss = self.response_nats(model, inputs) / num_items_in_batch
        if not bool(loss.isfinite()):
            self._refuse("loss", loss.item(), self.state.global_step + 1)
        return loss

    def response_nats(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
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

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean over all response tokens of the evaluation examples, nats."""
        if not self.eval_batches:
            return {}
        self.model.eval()
        nats, n_labels = 0.0, 0
        with torch.no_grad():
            for items in self.eval_batches:
                inputs = self._prepare_inputs(batch_of(self.examples, items))
                nats += float(self.response_nats(self.model, inputs))
                n_labels += int((inputs["labels"] != MASKED).sum())
        metrics = {"eval_loss": nats / n_labels}
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
            f"The {what} is {value} in step {step}, so training stopped; {where}. Train into "
            "another folder with a smaller --peak-learning-rate, more --warmup or --bits 32."
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The adapter alone: no pickled arguments, no copy of the embedding."""
        self.model.save_pretrained(output_dir, save_embedding_layers=False)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Everything that going on needs. The checkpoint before is kept until this one is whole."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            write_text(folder / WHOLE, json.dumps(_digests(folder), indent=1))
        except (OSError, RuntimeError, SafetensorError) as error:
            first = first_line(error)
            raise RecordsError(
                f"{folder} cannot be written ({first}). The checkpoint before it is kept: free "
                "some space and run the same command again."
            ) from error


class _Flow(TrainerCallback):
    """Evaluates at the end of each epoch, before the checkpoint, so that the row is in it."""

    def __init__(self, watch: Watch, evaluates: bool) -> None:
        self.watch, self.evaluates = watch, evaluates

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch_ends = state.epoch is not None and float(state.epoch).is_integer()
        last = state.global_step >= state.max_steps
        control.should_evaluate = self.evaluates and (epoch_ends or last)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        detail = "" if loss is None else f"loss {loss:.3f}"
        self.watch(Progress("training", state.global_step, state.max_steps, "steps", detail))


def only_at(head: nn.Module, wanted: Bool[Tensor, "batch pos"]) -> RemovableHandle:
    """Let the head read the wanted positions only: its output is [1, wanted, d_vocab]."""

    def choose(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (arguments[0][wanted][None], *arguments[1:])

    return head.register_forward_pre_hook(choose)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole. Raises RecordsError where it was altered since."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    if newest is not None:
        _require_unaltered(newest)
    return newest


def _require_unaltered(checkpoint: Path) -> None:
    try:
        said = read_json(checkpoint / WHOLE)
    except ValueError:
        said = None
    if said != _digests(checkpoint):
        raise RecordsError(
            f"{checkpoint}: it was altered after it was written (the sha256 of a file differs). "
            "Delete it and run the same command again: it goes on from the one before."
        )


def _digests(checkpoint: Path) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint."""
    files = sorted(path for path in checkpoint.iterdir() if path.is_file() and path.name != WHOLE)
    return {path.name: sha256_of(path) for path in files if not path.name.startswith(".")}
