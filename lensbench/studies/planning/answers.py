"""What answering takes, planned of batches as they will be put to the model.

What a search will find is not known before it has been made. So each batch is there twice: with
the shortest context that a search of these documents can give, and with the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from lensbench.checkpoints.open import open_tokenizer, quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.costs.cost import Cost, unpadded
from lensbench.costs.outlined import Outlined, plainly_outlined
from lensbench.costs.planned import Jobs, Planned, plan_record
from lensbench.costs.shape import Shape
from lensbench.costs.written import written
from lensbench.errors import Problem
from lensbench.quantized.adapters.prompt_format import prompt_format
from lensbench.quantized.generation.infer import batches_of, request_of
from lensbench.quantized.generation.questions import Asked, Retrieved, prepare, read_questions
from lensbench.quantized.generation.responses_csv import RESERVED
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.quantized.peaks import Batch, Import
from lensbench.records.recording import Standing
from lensbench.records.schema.generation import SPANS
from lensbench.studies.planning.ends import Ends, at_both_ends, contexts

if TYPE_CHECKING:
    pass

Lengths = tuple[int, ...]  # tokens of each prompt of a batch


def plan_answers(
    name: str, ref: ModelRef, spec: InferenceSpec, documents: Sequence[str] = ()
) -> Planned:
    """The record of an inference run; `documents` are what its index will hold."""
    with quiet():
        words = open_tokenizer(ref.folder)
    put = prompt_format(ref, words, spec.style)
    request = request_of(spec, ref, put, {}, None)
    jobs = partial(_jobs, spec, documents, request.settings)
    more: list[Import] = ["embedder"] if documents else []
    return plan_record(name, ref, request, jobs, None, spec.device, "infer", plainly_outlined, more)


def answer_cost(
    shape: Shape, spec: InferenceSpec, n_layers: int, lengths: Lengths, ends: bool
) -> Cost:
    """One batch; `ends`: where every response ends with its first token, else at its limit.

    Of a trace the last token is read too, without logits; its sums are no product of matrices.
    """
    n, each, limit = len(lengths), max(lengths), spec.decoding.max_new_tokens
    n_new = 1 if ends else limit
    cost = written(shape, n, each, n_new)
    rows = {"responses": n, "responses.prompt_ids": sum(lengths)}
    if spec.trace is not None:
        last = shape.batch(n, 1, 0, each + n_new - 1)
        cost += replace(last, n_tokens=0)  # nobody asks what follows: it is not part of the answer
        cells = n * len(SPANS) * (n_layers + 1)
        rows |= {"activations": cells, "activations.mean": cells * shape.d_model}
    if spec.control is not None:
        rows |= {"controls": n}
    held = shape.held("infer", Batch(n, each, limit))
    return cost + unpadded(lengths) + Cost(working_bytes=held, rows=rows)


def _jobs(
    spec: InferenceSpec,
    documents: Sequence[str],
    settings: Mapping[str, Any],
    known: Outlined[AdaptedModel],
    how_far: Standing,
) -> Jobs[Ends[Lengths]]:
    """The batches of one model, of its outline alone."""
    model, shape = known.model, known.shape
    questions, problems = read_questions(spec.file, spec.limit, RESERVED)
    n_documents = spec.n_documents if spec.rag is not None else 0
    found = contexts(model.tokenizer, documents, len(questions), n_documents)

    def batches(retrieved: Retrieved | None) -> tuple[list[list[Lengths]], list[Problem]]:
        return _lengths(spec, model, questions, retrieved, settings, how_far.widths)

    items, unfit = at_both_ends(found, batches)
    return Jobs(
        items,
        lambda item: answer_cost(shape, spec, model.n_layers, item.longest, ends=False),
        n_prompts=sum(len(batch.longest) for batch in chain(*items)),
        problems=list(dict.fromkeys([*problems, *unfit])),
        least=lambda item: answer_cost(shape, spec, model.n_layers, item.shortest, ends=True),
    )


def _lengths(
    spec: InferenceSpec,
    model: AdaptedModel,
    questions: Sequence[Asked],
    retrieved: Retrieved | None,
    settings: Mapping[str, Any],
    widths: Sequence[Mapping[str, Any]],
) -> tuple[list[list[Lengths]], list[Problem]]:
    """Tokens of every prompt, batch by batch; what does not fit."""
    limit = spec.decoding.max_new_tokens
    ready, unfit = prepare(model, settings["style"], questions, retrieved, limit)
    batches = batches_of(spec, questions, ready, widths, settings["batch_size"])
    lengths = [
        [tuple(len(one.fitted.token_ids) for one in batch) for batch in stage] for stage in batches
    ]
    return lengths, unfit
