"""Inference over a file of prompts, into a record and a CSV.

The record is what counts: a batch is in it wholly or not at all, its responses and its trace in
step. The CSV is made from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from lensbench.checkpoints.open import open_tokenizer, quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.checkpoints.stored.heap import release
from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.quantized.adapters.prompt_format import PromptFormat, prompt_format
from lensbench.quantized.generation.answer import Answering, answer
from lensbench.quantized.generation.batching import default_batch_size, plan, rebatched
from lensbench.quantized.generation.questions import (
    Asked,
    Ready,
    Retrieved,
    prepare,
    read_questions,
    retrieve,
)
from lensbench.quantized.generation.responses_csv import RESERVED, ResponsesCsv, require_own
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.generation.tables import in_order
from lensbench.quantized.loading.load import AdaptedModel, load_quantized, require_loadable
from lensbench.quantized.peaks import Batch, Use
from lensbench.records.engine import Outcome, Work, make, with_pauses
from lensbench.records.parts import Part, Parts
from lensbench.records.read import read_table
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.store import RecordStore


def run_inference(
    model: str | Path | ModelRef | AdaptedModel,
    spec: InferenceSpec,
    progress: Watch = ignore,
    notify: Notify = ignore,
) -> Outcome:
    """Answer every prompt of a file, or go on with it after an interruption.

    With a larger limit the record is widened. A prompt that cannot be answered is a problem in the
    outcome and the rest goes on. `notify` gets what a user should know, once each.

    Raises:
        InputProblems: a file without good rows, layers that do not exist.
        ModelError: the model cannot be loaded or puts out NaN.
        RecordsError: the record is of other settings, locked, or cannot be written; the CSV was
            made by somebody else.
    """
    ref = ModelRef.of(model, use="generation")
    questions, bad_rows = read_questions(spec.file, spec.limit, RESERVED)
    retrieved = None
    if spec.rag is not None:
        progress(Progress(f"searching {spec.rag}"))
        retrieved = retrieve(spec.rag, questions, spec.n_documents, spec.control)
        release()  # the embedder, before the model is loaded
    store = RecordStore(spec.folder, ref.name, "trace" if spec.trace else "inference")
    if store.manifest() is None:
        require_own(spec.out, store.folder)
        if not isinstance(model, AdaptedModel):
            # Batches are as large as there is room for, unless somebody says how large.
            use = Use("infer", Batch(spec.batch_size or 1, n_new=spec.decoding.max_new_tokens))
            require_loadable(ref, spec.device, use=use)
    progress(Progress(f"hashing the weights of {ref.name}"))
    facts = {"name": ref.name} | ref.facts()
    with quiet():
        words = model.tokenizer if isinstance(model, AdaptedModel) else open_tokenizer(ref.folder)
    put = prompt_format(ref, words, spec.style)
    request = replace(request_of(spec, ref, put, facts, retrieved), again=ref.facts)
    csv = ResponsesCsv(spec.out, questions, retrieved is not None)
    run = _Run(model, spec, csv, questions, retrieved, put, bad_rows, progress, notify)
    pauses = with_pauses(spec.pause_s) if spec.pause_s else None
    problems = make(request, run.prepare, progress, pauses)
    if not spec.out.exists():
        csv.write(read_table(store.folder, "responses"))
    return Outcome([store.folder], problems=problems)


def request_of(
    spec: InferenceSpec,
    ref: ModelRef,
    put: PromptFormat,
    facts: Mapping[str, Any],
    retrieved: Retrieved | None,
) -> Request:
    """The record that is wanted. What is not known of model or index is left open.

    `facts` are of the model, `retrieved` of the index; both are found before a run, not for a plan.
    """
    store = RecordStore(spec.folder, ref.name, "trace" if spec.trace else "inference")
    settings = _settings(spec, put, retrieved, facts.get("adapter_sha256"))
    batch_size = _planned_size(store, spec.batch_size)
    if batch_size is not None:
        settings |= {"batch_size": batch_size}
    unknown = ["rag"] if spec.rag is not None and retrieved is None else []
    unknown += ["adapter_sha256"] if ref.adapter is not None and not facts else []
    request = Request(
        store,
        settings,
        facts,
        tables=("controls",) if spec.control else (),
        decided=("batch_size",),
        grows=_grows(spec),
    )
    return request.leaving_open(unknown)


def _grows(spec: InferenceSpec) -> tuple[str, ...]:
    """Which prompts there are decides who is exchanged with whom: then there cannot be more."""
    among_all = spec.control == "shuffled" or spec.rebatch is not None
    return () if among_all else ("limit",)


@dataclass(frozen=True)
class _Run:
    """One run: its model, questions and where its answers go."""

    model: str | Path | ModelRef | AdaptedModel
    spec: InferenceSpec
    csv: ResponsesCsv
    questions: list[Asked]
    retrieved: Retrieved | None
    put: PromptFormat
    bad_rows: list[Problem]
    watch: Watch
    notify: Notify

    def prepare(self, record: Recording) -> Work[Answering, list[Ready]]:
        """Load the model, plan the batches, and bring the CSV in step with the record."""
        spec = self.spec
        self.watch(Progress(f"loading {record.request.store.model}"))
        model = load_quantized(self.model, device=spec.device)
        _require_layers(spec.trace_layers, model.n_layers)
        n_new, style = spec.decoding.max_new_tokens, record.request.settings["style"]
        ready, unfit = prepare(model, style, self.questions, self.retrieved, n_new)
        batch_size = record.request.settings.get("batch_size")
        if batch_size is None:
            longest = max((len(one.fitted.token_ids) for one in ready), default=1)
            batch_size = default_batch_size(model, longest, n_new)
        record.begin(model.facts(), {"batch_size": batch_size})
        self._tell(model, ready, batch_size)
        limit = min(batch_size, spec.batch_size or batch_size)
        limit = min([limit, *(notes["limit"] for notes in record.parts.notes)])
        self.csv.write(record.parts.table("responses"))

        def finish(parts: Parts) -> Finished:
            asked = [question.id for question in self.questions]
            responses = in_order(parts.table("responses"), "prompt_id", asked)
            self.csv.write(responses)
            problems = [*self.bad_rows, *unfit, *parts.problems]
            return Finished(problems, {"responses": responses}, facts=self.put.facts())

        return Work(
            Answering(model, spec, limit),
            answer,
            self._batches(record, ready, batch_size, limit),
            finish,
            unit="prompts",
            size=len,
            seen=self._seen(limit),
        )

    def _batches(
        self, record: Recording, ready: list[Ready], batch_size: int, limit: int
    ) -> list[list[list[Ready]]]:
        """For each width of the record the batches that it adds."""
        found = batches_of(self.spec, self.questions, ready, record.widths, batch_size)
        if self.spec.rebatch is not None:
            for batches in found:
                _require_neighbours(batches, limit)
        return found

    def _seen(self, limit: int) -> Callable[[Part], str]:
        """What happens when a batch is in the record: it goes into the CSV, and is told."""
        started, n_tokens, at_most = time.monotonic(), 0, limit

        def seen(part: Part) -> str:
            nonlocal n_tokens, at_most
            responses = part.tables["responses"]
            self.csv.append(responses)
            if part.notes["limit"] < at_most:
                at_most = part.notes["limit"]
                self.notify(f"memory ran out: from here on at most {at_most} prompts at a time")
            n_tokens += pc.sum(responses["n_generated_tokens"]).as_py() or 0
            speed = n_tokens / (time.monotonic() - started)
            return f"{n_tokens:,} new tokens, {speed:.1f} a second"

        return seen

    def _tell(self, model: AdaptedModel, ready: list[Ready], batch_size: int) -> None:
        """What a user should know before the first batch."""
        cut = [one for one in ready if one.fitted.context_tokens_cut]
        if cut:
            most = max(one.fitted.context_tokens_cut for one in cut)
            self.notify(
                f"retrieved context was cut to fit in {len(cut)} of {len(ready)} prompts, by up to "
                f"{most:,} tokens (column context_tokens_cut)"
            )
        shorter = [-one.length_difference for one in ready if one.length_difference]
        if shorter:
            self.notify(
                f"in {len(shorter)} of {len(ready)} prompts no cut of the control's text gives the "
                f"length of what was retrieved, as tokens merge: these are up to {max(shorter)} "
                "token(s) shorter (column length_difference)"
            )
        if model.ref.int8_threshold and batch_size > 1:
            self.notify(
                "LLM.int8 is not batch-invariant: which prompts share a batch changes answers a "
                "little (recorded as batch_ids). --int8-threshold 0 or --batch-size 1 avoids it."
            )


def batches_of(
    spec: InferenceSpec,
    questions: Sequence[Asked],
    ready: Sequence[Ready],
    widths: Sequence[Mapping[str, Any]],
    batch_size: int,
) -> list[list[list[Ready]]]:
    """For each width of the record the batches that it adds."""
    places = {asked.id: i for i, asked in enumerate(questions)}
    found, start = [], 0
    for width in widths:
        stop = width.get("limit") or len(questions)
        own = [one for one in ready if start <= places[one.asked.id] < stop]
        batches = plan([len(one.fitted.token_ids) for one in own], batch_size)
        if spec.rebatch is not None:
            batches = rebatched(batches, spec.rebatch)
        found.append([[own[i] for i in batch] for batch in batches])
        start = stop
    return found


def _planned_size(store: RecordStore, asked: int | None) -> int | None:
    """The batch size of the run that is there; a smaller one asked for only splits its batches."""
    earlier = store.manifest()
    if earlier is None:
        return asked
    planned = int(earlier["settings"]["batch_size"])
    return asked if asked is not None and asked > planned else planned


def _require_layers(layers: Sequence[int], n_layers: int) -> None:
    outside = [layer for layer in layers if not 0 <= layer <= n_layers]
    if outside:
        what = f"the model has no layer {', '.join(map(str, outside))}"
        remedy = f"Give 0 (the embedding) to {n_layers}."
        raise InputProblems([Problem("trace_layers", what, remedy)])


def _require_neighbours(batches: Sequence[Sequence[Ready]], limit: int) -> None:
    """Prompts can only get other neighbours where there are some to change."""
    if len(batches) < 2 or limit < 2:
        many = "every prompt is alone" if limit < 2 else "all prompts are in one batch"
        what = f"{many}, so there are no other neighbours to give them"
        remedy = "Set --batch-size between 2 and half the number of prompts."
        raise InputProblems([Problem("rebatch", what, remedy)])


def _settings(
    spec: InferenceSpec,
    put: PromptFormat,
    retrieved: Retrieved | None,
    adapter_sha256: str | None,
) -> dict[str, Any]:
    """What decides the responses, but for the model and the batch size."""
    decoding = spec.decoding.settings()
    chosen = {"control": spec.control, "rebatch": spec.rebatch}
    controls = {key: value for key, value in chosen.items() if value is not None}
    sample_top_k = decoding.pop("top_k")  # the name without more is retrieval's
    return (
        decoding
        | controls
        | {
            "prompts": spec.file.name,
            "prompts_sha256": sha256_of(spec.file),
            "limit": spec.limit,
            "style": put.style,
            "adapter_sha256": adapter_sha256,
            "trace_layers": list(spec.trace_layers),
            "sample_top_k": sample_top_k,
            "top_k": spec.n_documents if spec.rag is not None else None,
            "rag": retrieved.facts if retrieved is not None else None,
        }
    )
