"""One batch of prompts answered: what a job of an inference run does and yields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lensbench.errors import Problem
from lensbench.quantized.generation.batching import apart, in_pieces
from lensbench.quantized.generation.generate import Generation, generate, row_seed
from lensbench.quantized.generation.questions import Ready
from lensbench.quantized.generation.spec import InferenceSpec
from lensbench.quantized.generation.tables import TracedBatch, controls_table, responses_table
from lensbench.quantized.generation.trace import ResidualMeans
from lensbench.quantized.loading.load import AdaptedModel
from lensbench.records.engine import Job
from lensbench.records.parts import Part


@dataclass
class Answering:
    """The model at work, and how many prompts go through it together at most.

    Memory lowers `limit`; which prompts were together is in the responses (`batch_ids`).
    """

    model: AdaptedModel
    spec: InferenceSpec
    limit: int

    def seed(self, ready: Ready) -> int | None:
        """Of this row's own generator: its id decides, neither its neighbours nor its batch."""
        decoding = self.spec.decoding
        return row_seed(decoding.seed, ready.asked.id) if decoding.sampled else None


def answer(at: Answering, job: Job[list[Ready]]) -> Part:
    """The responses of one batch, with its trace; `limit` is noted for whoever goes on."""
    model, spec, name = at.model, at.spec, at.model.ref.name
    tracer = ResidualMeans(model, spec.trace_layers) if spec.trace else None
    traced = TracedBatch(name, model.n_layers, spec.trace_layers)

    def work(together: Sequence[Ready]) -> list[Generation]:
        seeds = [at.seed(ready) or 0 for ready in together]
        prompts = [ready.fitted.token_ids for ready in together]
        generations = generate(model, prompts, spec.decoding, seeds, tracer)
        if tracer is not None:
            traced.add([ready.asked.id for ready in together], tracer)
        return generations

    new = spec.decoding.max_new_tokens
    kinds = apart(model, [(len(ready.fitted.token_ids), new) for ready in job.item])
    pieces = in_pieces(job.item, at.limit, work, kinds)
    at.limit = pieces.limit
    tables = {"responses": responses_table(name, job.number, pieces.done, at.seed)}
    if spec.trace:
        tables |= traced.tables(job.number)
    if spec.control:
        answered = [ready for together, _ in pieces.done for ready in together]
        tables["controls"] = controls_table(name, answered)
    too_big = [_too_big(ready, spec.decoding.max_new_tokens) for ready in pieces.too_big]
    files = traced.shard(job.number) if spec.trace else {}
    return Part(tables, too_big, {"limit": at.limit, "n_tokens": _n_read(pieces.done)}, files)


def _n_read(done: Sequence[tuple[Sequence[Ready], Sequence[Generation]]]) -> int:
    """Tokens that were read: prompts, and what was written but for the last of each."""
    written = [one for _, answers in done for one in answers]
    return sum(one.n_prompt_tokens + len(one.token_ids) - 1 for one in written)


def _too_big(ready: Ready, max_new_tokens: int) -> Problem:
    n_tokens = len(ready.fitted.token_ids)
    what = f"memory ran out on it alone ({n_tokens:,} prompt tokens and up to "
    what += f"{max_new_tokens:,} new ones)"
    remedy = "Shorten it or lower --max-new-tokens; or free memory, delete the record, run again."
    return Problem(ready.asked.where, what, remedy, ready.asked.id)
