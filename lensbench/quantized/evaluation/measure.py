"""One batch of examples in one condition: what a job of an evaluation does and yields."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

from lensbench.errors import Problem
from lensbench.quantized.data.pairs import Pair
from lensbench.quantized.evaluation.scores import scores
from lensbench.quantized.generation.batching import apart, in_pieces
from lensbench.quantized.generation.generate import generate
from lensbench.quantized.generation.likelihood import response_bits
from lensbench.quantized.generation.questions import Ready
from lensbench.quantized.generation.spec import Decoding
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.records.engine import Job
from lensbench.records.parts import Part
from lensbench.records.schema.adapters import EVALUATION


@dataclass(frozen=True)
class Example:
    """One pair as a condition's model gets it, and the reference as tokens, end included."""

    ready: Ready
    pair: Pair
    reference_ids: list[int]


@dataclass(frozen=True)
class Batch:
    """Examples that go through the model together, in one condition."""

    condition: str
    examples: list[Example]


@dataclass
class Evaluating:
    """The model at work, and how many examples go through it together at most; memory lowers it."""

    model: AdaptedModel
    max_new_tokens: int
    limit: int


def measure(at: Evaluating, job: Job[Batch]) -> Part:
    """Generate, score and measure one batch: a row for each example."""
    condition, name = job.item.condition, at.model.ref.name

    def work(examples: Sequence[Example]) -> list[dict[str, Any]]:
        return _rows(at, examples)

    with adapted_or_not(at.model, "adapter" in condition):
        pieces = in_pieces(job.item.examples, at.limit, work, _kinds(at, job.item.examples))
    at.limit = pieces.limit
    own = {"model": name, "condition": condition}
    rows = [own | row for _, found in pieces.done for row in found]
    table = EVALUATION.of_rows(rows)
    read = sum(
        2 * len(one.ready.fitted.token_ids) + len(one.reference_ids) + row["n_generated_tokens"] - 1
        for together, found in pieces.done
        for one, row in zip(together, found, strict=True)
    )  # each is answered, and read with its reference
    too_big = [_too_big(one, condition) for one in pieces.too_big]
    return Part({"evaluation": table}, too_big, {"n_tokens": read})


def _rows(at: Evaluating, examples: Sequence[Example]) -> list[dict[str, Any]]:
    prompts = [example.ready.fitted.token_ids for example in examples]
    said = generate(at.model, prompts, Decoding(max_new_tokens=at.max_new_tokens))
    bits = response_bits(at.model, prompts, [example.reference_ids for example in examples])
    return [
        {
            "prompt_id": example.pair.id,
            "group": example.pair.group,
            "prompt": example.pair.question,
            "reference": example.pair.response,
            "response": one.text,
            "finish_reason": one.finish_reason,
            "n_generated_tokens": len(one.token_ids),
            "reference_nll_bits": nll,
            "n_reference_tokens": len(example.reference_ids),
            **scores(example.pair.question, example.pair.response, one.text, one.finish_reason),
        }
        for example, one, nll in zip(examples, said, bits, strict=True)
    ]


def _kinds(at: Evaluating, examples: Sequence[Example]) -> list[int]:
    """Which examples may be together (`apart`): each is generated from, and read with its end."""
    return apart(
        at.model,
        [
            (len(one.ready.fitted.token_ids), max(at.max_new_tokens, len(one.reference_ids)))
            for one in examples
        ],
    )


def adapted_or_not(model: AdaptedModel, adapted: bool) -> AbstractContextManager[Any]:
    """The model with its adapter, or as if it had none."""
    if model.ref.adapter is None or adapted:
        return nullcontext()
    return cast(AbstractContextManager[Any], model.hf.disable_adapter())


def _too_big(example: Example, condition: str) -> Problem:
    what = f"memory ran out on it alone (condition {condition})"
    remedy = "Shorten it, lower --max-new-tokens, or free memory."
    return Problem(example.ready.asked.where, what, remedy, example.pair.id)
