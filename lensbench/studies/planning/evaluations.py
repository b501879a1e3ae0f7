"""What an evaluation takes: every example answered in each condition, and its reference read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from lensbench.checkpoints.open import open_tokenizer, quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.cost import Cost, unpadded
from lensbench.costs.outlined import Outlined, plainly_outlined
from lensbench.costs.planned import Jobs, Planned, plan_record
from lensbench.costs.shape import Shape
from lensbench.costs.written import written
from lensbench.errors import Problem
from lensbench.quantized.adapters.prompt_format import prompt_format
from lensbench.quantized.evaluation.evaluate import (
    AskedPairs,
    asked_of,
    batches_of,
    conditions_of,
    request_of,
    stages_of,
)
from lensbench.quantized.evaluation.measure import Batch
from lensbench.quantized.evaluation.spec import EvalSpec
from lensbench.quantized.generation.questions import Retrieved
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.quantized.peaks import Batch as PassBatch
from lensbench.quantized.peaks import Import
from lensbench.records.recording import Standing
from lensbench.studies.planning.ends import Ends, at_both_ends, contexts


def plan_evaluation(
    name: str,
    ref: ModelRef,
    spec: EvalSpec,
    out: Path,
    adapter: int = 0,
    documents: Sequence[str] = (),
) -> Planned:
    """The record of an evaluation.

    Args:
        ref: the base.
        adapter: numbers of the adapter that will be on it; 0: there is none.
        documents: what its index will hold.
    """
    with quiet():
        words = open_tokenizer(ref.folder)
    put, asked = prompt_format(ref, words, spec.style), asked_of(spec)
    conditions = conditions_of(spec, adapter > 0)
    request = request_of(spec, ref, out, put, asked, conditions, {}, None)

    def jobs(known: Outlined[AdaptedModel], how_far: Standing) -> Jobs[Ends[Batch]]:
        widths = how_far.widths
        return evaluation(spec, asked, request.settings, documents, adapter, known, widths)

    more: list[Import] = ["embedder"] if documents else []
    return plan_record(name, ref, request, jobs, None, spec.device, "infer", plainly_outlined, more)


def evaluation_cost(shape: Shape, batch: Batch, adapter: int, limit: int, ends: bool) -> Cost:
    """One batch: answered, and read with its references.

    `limit`: tokens of an answer at most. `ends`: every answer ends with its first token. What an
    adapter adds to a layer, each token is multiplied with too.
    """
    if "adapter" in batch.condition:
        shape = replace(shape, block_weights=shape.block_weights + adapter)
    asked = [len(one.ready.fitted.token_ids) for one in batch.examples]
    said = [len(one.reference_ids) for one in batch.examples]
    whole = [sum(both) for both in zip(asked, said, strict=True)]
    n, n_new = len(asked), 1 if ends else limit
    answered = written(shape, n, max(asked), n_new)
    read = shape.batch(n, max(whole), max(said) + 1)
    held = shape.held("infer", PassBatch(n, max(whole), limit))
    own = Cost(working_bytes=held, rows={"evaluation": n})
    return answered + unpadded(asked) + read + unpadded(whole) + own


def evaluation(
    spec: EvalSpec,
    asked: AskedPairs,
    settings: Mapping[str, Any],
    documents: Sequence[str],
    adapter: int,
    known: Outlined[AdaptedModel],
    widths: Sequence[Mapping[str, Any]],
) -> Jobs[Ends[Batch]]:
    """The batches of one model, of its outline alone, by the record's widths."""
    model, shape = known.model, known.shape
    n_documents = spec.n_documents if spec.rag is not None else 0
    found = contexts(model.tokenizer, documents, len(asked.questions), n_documents)

    def batches(retrieved: Retrieved | None) -> tuple[list[list[Batch]], list[Problem]]:
        stages, unfit = stages_of(model, settings, asked, retrieved, widths)
        return [batches_of(examples, spec.batch_size) for examples in stages], unfit

    items, unfit = at_both_ends(found, batches)
    cost = partial(evaluation_cost, shape, adapter=adapter, limit=spec.max_new_tokens)
    conditions = len(settings["conditions"])
    return Jobs(
        items,
        lambda item: cost(item.longest, ends=False),
        n_prompts=sum(len(one.longest.examples) for one in chain(*items)) // conditions,
        problems=list(dict.fromkeys([*asked.problems, *unfit])),
        least=lambda item: cost(item.shortest, ends=True),
    )
