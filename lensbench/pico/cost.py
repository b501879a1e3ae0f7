"""What a training of a small model takes, before there is one."""

from __future__ import annotations

import math
from typing import Any

import torch

from lensbench.checkpoints.placement import Placement
from lensbench.costs.cost import Cost
from lensbench.costs.outlined import Outlined, timed
from lensbench.costs.planned import Jobs
from lensbench.costs.shape import Shape, shape_of_config
from lensbench.pico.model import config_of
from lensbench.pico.spec import PicoSpec
from lensbench.pico.train import COPIES
from lensbench.quantized.peaks import Batch
from lensbench.quantized.training.checkpoints import CHECKPOINTS, latest, state_of
from lensbench.records.recording import Request, Standing
from lensbench.records.store import RecordStore

CORPUS = ("corpus", "corpus_sha256")  # settings that are known once it is read
_PASSES = 3  # forward; back, by the states and by the weights
_TOKEN_BYTES = 42  # of a kept model's tokenizer.json (21 kB for 512 tokens of python-docs)
_OTHER_BYTES = 4_500  # of its configs, and of the list of its tensors


def request_of(spec: PicoSpec) -> Request:
    """The record of a training, whose corpus is not read."""
    store = RecordStore(spec.out, spec.name, "pretraining")
    return Request(store, spec.settings(), {"name": spec.name}, decided=CORPUS)


@timed
def outlined(spec: PicoSpec) -> Outlined[Any]:
    """The model as it will be trained, with a vocabulary as large as it may become."""
    shape = shape_of_config(config_of(spec.plan, spec.plan.vocabulary, 0), torch.float32)
    return Outlined[Any](None, shape, torch.float32, Placement.of(spec.device))


def needed_bytes(spec: PicoSpec) -> int:
    """Memory of a training beside the program's: weights, their gradients, Adam's two sums."""
    shape = outlined(spec).shape
    return 4 * _weight_bytes(shape) + _held(spec, shape)


def _weight_bytes(shape: Shape) -> int:
    return 4 * (shape.sizes.n_linear + shape.sizes.n_other)


def _held(spec: PicoSpec, shape: Shape) -> int:
    """Of the largest step, beside the weights and their like."""
    return shape.held("train", Batch(spec.plan.batch_size, spec.plan.context))


def training(spec: PicoSpec, known: Outlined[Any], _: Standing) -> Jobs[range]:
    """One job: the steps that no checkpoint has yet, those among them that are kept."""
    checkpoint = latest(spec.out / CHECKPOINTS)
    done = state_of(checkpoint).global_step if checkpoint else -1
    steps = range(done + 1, spec.plan.steps + 1)
    return Jobs([[steps]], lambda own: training_cost(spec, known.shape, own))


def training_cost(spec: PicoSpec, shape: Shape, steps: range) -> Cost:
    """Steps by their numbers, of which 0 learns nothing; kept ones are validated.

    A pass back takes twice what one forward does: each product is there once for the gradient by
    what came in and once for that by the weights (Kaplan et al. 2020, arXiv 2001.08361).
    """
    plan = spec.plan
    n_learnt = len(steps) - (0 in steps)
    n_kept = sum(step in steps for step in plan.kept)
    n_rows = math.ceil(spec.validation_tokens / plan.context)
    step = shape.batch(plan.batch_size, plan.context, plan.context)
    valid = shape.batch(n_rows, plan.context, plan.context)
    n_passes = math.ceil(n_rows / plan.batch_size)
    n_tokens = n_learnt * step.n_tokens + n_kept * valid.n_tokens
    weights = _weight_bytes(shape)
    return Cost(
        n_tokens=n_tokens,
        n_padded=n_tokens,
        n_passes=_PASSES * n_learnt + n_kept * n_passes,
        flops=_PASSES * n_learnt * step.flops + n_kept * valid.flops,
        file_bytes=n_kept * (weights + _TOKEN_BYTES * plan.vocabulary + _OTHER_BYTES),
        scratch_bytes=weights * COPIES,
        working_bytes=_held(spec, shape) + 3 * weights,
        rows={"training": n_learnt + n_kept},
    )
