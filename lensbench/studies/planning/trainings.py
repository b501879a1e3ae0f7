"""What training an adapter takes: of the batches that the trainer will make, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lensbench.checkpoints.blocks import block_list
from lensbench.checkpoints.open import empty_model, open_config, quiet
from lensbench.costs.cost import Cost, total, unpadded
from lensbench.costs.outlined import Outlined, plainly_outlined
from lensbench.costs.planned import Jobs, Planned, plan_record
from lensbench.costs.shape import Shape
from lensbench.costs.written import written
from lensbench.prompts.batch import plan_batches
from lensbench.quantized.adapters.lora import Matched, match, place
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.quantized.precision import is_linear
from lensbench.quantized.training import prefix
from lensbench.quantized.training.checkpoints import CHECKPOINTS, latest, state_of
from lensbench.quantized.training.exact import in_steps
from lensbench.quantized.training.examples import TrainingData
from lensbench.quantized.training.learn import BATCH_TOKENS, used
from lensbench.quantized.training.spec import TrainSpec
from lensbench.quantized.training.train import EXAMPLE_TOKENS, checked, request_of
from lensbench.records.recording import Standing

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_COPIES = 3 * 3  # of the adapter: with both moments of Adam, in two checkpoints and a new one


@dataclass(frozen=True)
class Trained:
    """What decides the operations of a training step.

    `adapter`: numbers of all its matrices. `untouched`: weights of the lowest adapted block whose
    input no gradient reaches, and `unread` numbers of the adapter that stand there. `attended`:
    blocks through whose attention gradients go.
    """

    shape: Shape
    n_layers: int
    first: int
    kept: bool  # what enters the lowest adapted block is read from the disk
    adapter: int
    untouched: int
    unread: int
    attended: int

    @classmethod
    def of(cls, spec: TrainSpec, matched: Matched, known: Outlined[AdaptedModel]) -> Trained:
        """Of a model by its outline."""
        base, first = known.model.base, matched.layers[0]
        whole = cls.of_model(known.shape, base, matched, spec.lora.rank)
        obstacle = prefix.obstacle(block_list(base)[1], base.base_model, first)
        return replace(whole, kept=spec.cache_prefix and obstacle is None)

    @classmethod
    def of_model(cls, shape: Shape, base: PreTrainedModel, matched: Matched, rank: int) -> Trained:
        """Of a model whose weights are not needed, run whole in each step."""
        first, blocks = matched.layers[0], block_list(base)[1]
        reached = min(map(place, matched.targets))
        lowest = {path: own for path, own in blocks[first].named_modules() if is_linear(own)}
        here = [path for path in matched.targets if place(path) == reached]
        return cls(
            shape=shape,
            n_layers=len(blocks),
            first=first,
            kept=False,
            adapter=_size(base, matched, rank),
            untouched=sum(
                own.weight.numel() for path, own in lowest.items() if place(path) <= reached
            ),
            unread=rank * sum(_width_in(lowest[path], matched.transposed) for path in here),
            attended=len(blocks) - first - (reached > 0),
        )

    def forward(self, lengths: Sequence[int], n_labels: int) -> Cost:
        """A pass with logits where something is learnt, and nowhere else."""
        n, longest = len(lengths), max(lengths)
        share = (self.n_layers - self.first) / self.n_layers if self.kept else 1.0
        cost = self.shape.batch(n, longest, 0, share=share)
        more = Cost(flops=self.shape.row_flops * n_labels + 2.0 * self.adapter * n * longest)
        return cost + more + unpadded(lengths)

    def back(self, lengths: Sequence[int], n_labels: int) -> Cost:
        """From the loss to the lowest adapted block; of weights the adapter's alone are learnt.

        A product of two states has a gradient by each of them.
        """
        n, longest = len(lengths), max(lengths)
        per_block = self.shape.block_weights / self.n_layers
        reached = per_block * (self.n_layers - self.first) - self.untouched
        pairs = self.shape.pair_width / self.n_layers * self.attended * n * longest**2
        learnt = 2 * self.adapter - self.unread
        flops = 2.0 * ((reached + learnt) * n * longest + 2 * pairs)
        return Cost(n_passes=1, flops=flops + self.shape.row_flops * n_labels)

    def below(self, batches: Sequence[Sequence[int]]) -> Cost:
        """Once over all examples, up to the lowest adapted block."""
        share = self.first / self.n_layers
        return total(
            self.shape.batch(len(own), max(own), 0, share=share) + unpadded(own) for own in batches
        )


def adapter_size(spec: TrainSpec) -> int:
    """How many numbers are trained. Raises what `match` raises."""
    with quiet():
        model = empty_model(open_config(spec.ref.folder))
        return _size(model, match(model, spec.lora), spec.lora.rank)


def _size(base: nn.Module, matched: Matched, rank: int) -> int:
    """Of both matrices of every module."""
    modules = [base.get_submodule(path) for path in matched.modules]
    return rank * sum(sum(module.get_parameter("weight").shape) for module in modules)


def plan_training(name: str, spec: TrainSpec) -> Planned:
    """The record of an adapter's training."""
    data, matched = checked(spec, spec.ref.folder)
    request = request_of(spec, data, matched)

    def jobs(known: Outlined[AdaptedModel], _: Standing) -> Jobs[range]:
        return training(spec, data, matched, known)

    return plan_record(name, spec.ref, request, jobs, None, spec.device, "train", plainly_outlined)


def training(
    spec: TrainSpec, data: TrainingData, matched: Matched, known: Outlined[AdaptedModel]
) -> Jobs[range]:
    """One job: the steps that no checkpoint has yet; then the questions that are answered."""
    checkpoint = latest(spec.out / CHECKPOINTS)
    done = state_of(checkpoint).global_step if checkpoint else 0
    own = Trained.of(spec, matched, known)
    steps = list(steps_of(spec, data))
    evaluated = evaluated_after(spec, data, len(steps))
    cost = _learning(data, own, steps[done:], [n for n in evaluated if n > done or not done])
    cost += Cost(
        file_bytes=4 * own.adapter,
        scratch_bytes=4 * own.adapter * _COPIES,
        working_bytes=known.shape.held("train", used(spec, data, matched).batch),
        rows={"training": len(steps) + len(evaluated)},
    )
    ends = [cost + _answers(spec, data, known.shape, n) for n in (EXAMPLE_TOKENS, 1)]
    return Jobs(
        [[range(done, len(steps))]],
        lambda _: ends[0],
        n_prompts=data.n_train,
        problems=data.problems,
        least=(lambda _: ends[1]) if spec.n_examples else None,
    )


def steps_of(spec: TrainSpec, data: TrainingData) -> Iterator[list[list[int]]]:
    """Of each step its batches, examples by number, in the trainer's own order."""
    lengths = [len(example.token_ids) for example in data.examples[: data.n_train]]
    size, together = spec.batch_size, spec.batch_size * spec.gradient_accumulation
    n_steps = spec.max_steps or spec.epochs * math.ceil(len(lengths) / together)
    for own in islice(in_steps(lengths, together, spec.seed), n_steps):
        yield [own[i : i + size] for i in range(0, len(own), size)]


def evaluated_after(spec: TrainSpec, data: TrainingData, n_steps: int) -> list[int]:
    """The steps after which the held-out examples are read: 0, of each epoch the last, the last."""
    if data.n_train == len(data.examples):
        return []
    per_epoch = math.ceil(data.n_train / (spec.batch_size * spec.gradient_accumulation))
    return sorted({*range(0, n_steps + 1, per_epoch), n_steps})


def _learning(
    data: TrainingData, own: Trained, steps: Sequence[list[list[int]]], evaluated: Sequence[int]
) -> Cost:
    """Steps and evaluations, and what comes before them where lower blocks are run once."""
    lengths = [len(example.token_ids) for example in data.examples]
    labels = [len(example.token_ids) - example.n_prompt for example in data.examples]
    held_out = plan_batches(lengths[data.n_train :], BATCH_TOKENS)
    found = [
        way([lengths[i] for i in batch], sum(labels[i] for i in batch))
        for step in steps
        for batch in step
        for way in (own.forward, own.back)
    ]
    read = [[data.n_train + i for i in batch] for batch in held_out]
    once = [
        own.forward([lengths[i] for i in batch], sum(labels[i] for i in batch)) for batch in read
    ]
    found += once * len(evaluated)
    if own.kept and steps:
        below = [[lengths[i] for i in batch] for batch in plan_batches(lengths, BATCH_TOKENS)]
        item = 4 if own.shape.bits == 32 else 2
        found.append(own.below(below) + Cost(scratch_bytes=sum(lengths) * own.shape.d_model * item))
    return total(found)


def _answers(spec: TrainSpec, data: TrainingData, shape: Shape, n_new: int) -> Cost:
    """Some questions, by the base and by the adapter."""
    shown = (data.examples[data.n_train :] or data.examples)[: spec.n_examples]
    lengths = [example.n_prompt for example in shown]
    if not lengths:
        return Cost()
    answered = written(shape, len(lengths), max(lengths), n_new) + unpadded(lengths)
    return answered + answered


def _width_in(module: nn.Module, transposed: bool) -> int:
    """How many numbers a linear layer reads of each token."""
    weight: Tensor = module.get_parameter("weight")
    return int(weight.shape[0 if transposed else 1])
