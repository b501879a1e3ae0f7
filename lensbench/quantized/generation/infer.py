"""Inference over a file of prompts: batch by batch into a record and a CSV, resumable anywhere.

The record is what counts: a batch is in it wholly or not at all, its responses and its trace in
step. The CSV is made from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lensbench.checkpoints.open import open_tokenizer, quiet
from lensbench.checkpoints.ref import ModelRef
from lensbench.errors import InputProblems, Problem
from lensbench.files import sha256_of, write_bytes
from lensbench.quantized.generation.batching import default_batch_size, in_pieces, plan, rebatched
from lensbench.quantized.generation.generate import Generation, generate, row_seed
from lensbench.quantized.generation.questions import (
    Asked,
    Ready,
    Retrieved,
    prepare,
    read_questions,
    retrieve,
)
from lensbench.quantized.generation.responses_csv import RESERVED, ResponsesCsv, require_own
from lensbench.quantized.generation.spec import Decoding, InferenceSpec
from lensbench.quantized.generation.tables import TracedBatch, controls_table, responses_table
from lensbench.quantized.generation.trace import ResidualMeans
from lensbench.quantized.loading.load import AdaptedModel, load_quantized
from lensbench.quantized.style import default_style
from lensbench.records.manifest import new_manifest, peak_memory_bytes
from lensbench.records.open import read_table
from lensbench.records.schema.generation import RESPONSES
from lensbench.records.store import RecordStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRACED = ("activations", "residual_index")  # tables of a traced run, besides its responses


@dataclass(frozen=True)
class Progress:
    """How far a run is. Tokens and seconds are of this session; rows may be from earlier ones."""

    n_done: int
    n_total: int
    n_new_tokens: int
    wall_s: float


@dataclass(frozen=True)
class Outcome:
    """What became of a run."""

    csv: Path
    folder: Path  # the record
    n_responses: int
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Every row was answered."""
        return not self.problems


Report = Callable[[Progress], None]
Notify = Callable[[str], None]


def run_inference(
    model: str | Path | ModelRef | AdaptedModel,
    spec: InferenceSpec,
    progress: Report = lambda _: None,
    notify: Notify = lambda _: None,
) -> Outcome:
    """Answer every prompt of a file, or go on with it after an interruption.

    A prompt that cannot be answered is a problem in the outcome and the rest goes on. `notify`
    gets what a user should know, once each.

    Raises:
        InputProblems: a file without good rows, layers that do not exist.
        ModelError: the model cannot be loaded or puts out NaN.
        RecordsError: the record is of other settings, locked, or cannot be written; the CSV was
            made by somebody else.
    """
    started = time.monotonic()
    model = model if isinstance(model, AdaptedModel) else ModelRef.of(model, use="generation")
    questions, bad_rows = read_questions(spec.prompts, spec.limit, RESERVED)
    retrieved = (
        retrieve(spec.rag, questions, spec.n_documents, spec.control)
        if spec.rag is not None
        else None
    )
    identity = _identity(model)
    store = RecordStore(spec.folder, identity["name"], "trace" if spec.trace else "inference")
    csv = ResponsesCsv(spec.out, questions, retrieved is not None)
    settings = _settings(model, spec, retrieved, identity.get("adapter_sha256"))
    if store.manifest() is None:
        require_own(spec.out, store.folder)
    with store.locked():
        if store.is_complete(settings, identity, apart=("batch_size",)):
            store.tidy()  # it may have been killed on its last step
        else:
            run = _prepared(model, spec, store, csv, questions, retrieved, settings, notify)
            run.problems = bad_rows + run.problems
            run.go_on(progress, notify)
            run.finish(started)
        responses = read_table(store.folder, "responses")
        if not spec.out.exists():
            csv.write(responses)
    return Outcome(spec.out, store.folder, len(responses), store.problems())


@dataclass
class _Run:
    """One run at work."""

    model: AdaptedModel
    spec: InferenceSpec
    store: RecordStore
    csv: ResponsesCsv
    ready: list[Ready]
    problems: list[Problem]  # of rows that cannot be asked
    manifest: dict[str, Any]
    batches: list[list[int]]  # numbers of `ready`
    limit: int  # prompts that go through the model together at most; memory lowers it

    def go_on(self, progress: Report, notify: Notify) -> None:
        """Answer every batch that is not in the record yet."""
        there = [number for number in range(len(self.batches)) if self.store.has_part(number)]
        parts = [self.store.part(number) for number in there]
        self.limit = min([self.limit, *(notes["limit"] for _, _, notes in parts)])
        self.csv.write(
            pa.concat_tables([RESPONSES.schema.empty_table(), *(part[0] for part in parts)])
        )
        self.manifest["resumed_batches"] = len(there)
        started, n_tokens = time.monotonic(), 0
        n_done = sum(len(self.batches[number]) for number in there)
        progress(Progress(n_done, len(self.ready), n_tokens, 0.0))
        left = [number for number in range(len(self.batches)) if number not in set(there)]
        for number in left:
            limit = self.limit
            n_tokens += self._answer(number)
            if self.limit < limit:
                notify(f"memory ran out: from here on at most {self.limit} prompts at a time")
            n_done += len(self.batches[number])
            progress(Progress(n_done, len(self.ready), n_tokens, time.monotonic() - started))
            if number != left[-1]:
                time.sleep(self.spec.pause_s)

    def _answer(self, number: int) -> int:
        """Answer one batch, in the record and in the CSV when this returns. Returns its tokens."""
        model, spec = self.model, self.spec
        tracer = ResidualMeans(model, spec.trace_layers) if spec.trace else None
        traced = TracedBatch(self.store.model, model.n_layers, spec.trace_layers)

        def work(together: Sequence[Ready]) -> list[Generation]:
            seeds = [self._seed(ready) or 0 for ready in together]
            prompts = [ready.fitted.token_ids for ready in together]
            generations = generate(model, prompts, spec.decoding, seeds, tracer)
            if tracer is not None:
                traced.add([ready.asked.id for ready in together], tracer)
            return generations

        pieces = in_pieces([self.ready[i] for i in self.batches[number]], self.limit, work)
        self.limit = pieces.limit
        responses = responses_table(self.store.model, number, pieces.done, self._seed)
        tables = {"responses": responses}
        if spec.trace:
            tables |= traced.tables(number)
            for path, data in traced.shard(number).items():
                write_bytes(self.store.folder / path, data)
        if spec.control:
            answered = [ready for together, _ in pieces.done for ready in together]
            tables["controls"] = controls_table(self.store.model, answered)
        too_big = [_too_big(ready, spec.decoding) for ready in pieces.too_big]
        self.store.write_part(number, tables, too_big, {"limit": self.limit})
        self.csv.append(responses)
        return sum(len(g.token_ids) for _, generations in pieces.done for g in generations)

    def _seed(self, ready: Ready) -> int | None:
        """Of this row's own generator: its id decides, neither its neighbours nor its batch."""
        decoding = self.spec.decoding
        return row_seed(decoding.seed, ready.asked.id) if decoding.sampled else None

    def finish(self, started: float) -> None:
        """Make the record's tables and the CSV of the parts."""
        count = len(self.batches)
        responses, too_big, _ = self.store.parts(count, "responses")
        order = {ready.asked.id: i for i, ready in enumerate(self.ready)}
        ids = responses["prompt_id"].to_pylist()
        by_input = sorted(range(len(ids)), key=lambda i: order[ids[i]])
        responses = responses.take(pa.array(by_input, pa.int64()))
        problems = self.problems + too_big
        self.store.write_table("responses", responses)
        further = (*TRACED,) if self.spec.trace else ()
        for name in (*further, "controls") if self.spec.control else further:
            self.store.join_parts(count, name)
        self.store.write_table("problems", self.store.problems_table(problems))
        self.csv.write(responses)
        self.manifest |= {
            "problems": len(problems),
            "wall_s": round(time.monotonic() - started, 1),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        self.store.finish(self.manifest)


def _prepared(
    model: ModelRef | AdaptedModel,
    spec: InferenceSpec,
    store: RecordStore,
    csv: ResponsesCsv,
    questions: list[Asked],
    retrieved: Retrieved | None,
    settings: dict[str, Any],
    notify: Notify,
) -> _Run:
    """Load the model, plan the batches, and begin the record or check that it is this run's."""
    loaded = model if isinstance(model, AdaptedModel) else load_quantized(model, device=spec.device)
    _require_layers(spec.trace_layers, loaded.n_layers)
    n_new = spec.decoding.max_new_tokens
    ready, problems = prepare(loaded, settings["style"], questions, retrieved, n_new)
    lengths = [len(one.fitted.token_ids) for one in ready]
    batch_size = _planned_size(store, spec.batch_size)
    if batch_size is None:
        batch_size = default_batch_size(loaded, max(lengths, default=1), n_new)
    manifest = new_manifest(loaded.facts(), settings | {"batch_size": batch_size}, store.kind)
    store.start(manifest)
    _tell(loaded, ready, batch_size, notify)
    batches, limit = plan(lengths, batch_size), min(batch_size, spec.batch_size or batch_size)
    if spec.rebatch is not None:
        _require_neighbours(batches, limit)
        batches = rebatched(batches, spec.rebatch)
    return _Run(loaded, spec, store, csv, ready, problems, manifest, batches, limit)


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


def _require_neighbours(batches: Sequence[Sequence[int]], limit: int) -> None:
    """Prompts can only get other neighbours where there are some to change."""
    if len(batches) < 2 or limit < 2:
        many = "every prompt is alone" if limit < 2 else "all prompts are in one batch"
        what = f"{many}, so there are no other neighbours to give them"
        remedy = "Set --batch-size between 2 and half the number of prompts."
        raise InputProblems([Problem("rebatch", what, remedy)])


def _tell(model: AdaptedModel, ready: list[Ready], batch_size: int, notify: Notify) -> None:
    """What a user should know before the first batch."""
    cut = [one for one in ready if one.fitted.context_tokens_cut]
    if cut:
        most = max(one.fitted.context_tokens_cut for one in cut)
        notify(
            f"retrieved context was cut to fit in {len(cut)} of {len(ready)} prompts, by up to "
            f"{most:,} tokens (column context_tokens_cut)"
        )
    if model.ref.int8_threshold and batch_size > 1:
        notify(
            "LLM.int8 is not batch-invariant: which prompts share a batch changes answers a "
            "little (recorded as batch_ids). --int8-threshold 0 or --batch-size 1 avoids it."
        )


def _identity(model: ModelRef | AdaptedModel) -> dict[str, Any]:
    """What of the model can be known before it is loaded; the same keys as in a manifest."""
    if isinstance(model, AdaptedModel):
        return {"name": model.ref.name} | model.weights
    return {"name": model.name} | model.facts()


def _settings(
    model: ModelRef | AdaptedModel,
    spec: InferenceSpec,
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
            "prompts": spec.prompts.name,
            "prompts_sha256": sha256_of(spec.prompts),
            "limit": spec.limit,
            "style": spec.style or default_style(_tokenizer(model)),
            "adapter_sha256": adapter_sha256,
            "trace_layers": list(spec.trace_layers),
            "sample_top_k": sample_top_k,
            "top_k": spec.n_documents if retrieved is not None else None,
            "rag": retrieved.facts if retrieved is not None else None,
        }
    )


def _tokenizer(model: ModelRef | AdaptedModel) -> PreTrainedTokenizerBase:
    if isinstance(model, AdaptedModel):
        return model.tokenizer
    with quiet():
        return open_tokenizer(model.folder)


def _too_big(ready: Ready, decoding: Decoding) -> Problem:
    n_tokens = len(ready.fitted.token_ids)
    what = f"memory ran out on it alone ({n_tokens:,} prompt tokens and up to "
    what += f"{decoding.max_new_tokens:,} new ones)"
    remedy = "Shorten it or lower --max-new-tokens; or free memory, delete the record, run again."
    return Problem(ready.asked.where, what, remedy, ready.asked.id)
