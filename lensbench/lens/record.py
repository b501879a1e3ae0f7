"""A lens record: the jobs that it is made of, what each reads, and the tables of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache, partial
from itertools import islice
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import torch
from jaxtyping import Float
from torch import Tensor

from lensbench.again import Sent
from lensbench.costs.cost import Cost
from lensbench.costs.shape import Shape
from lensbench.errors import GateError, InputProblems, Problem
from lensbench.lens.gate import Identity, lens_identity, worst
from lensbench.lens.logit import not_finite_remedy, read_batch, read_positions
from lensbench.lens.milestones import milestones_table
from lensbench.lens.registry import Lenses, claiming
from lensbench.lens.settings import LensSettings
from lensbench.lens.table import lens_table, prompts_table
from lensbench.lens.vocabulary.bound import sampled
from lensbench.lens.vocabulary.exact import Recomputed
from lensbench.models.model import LensModel
from lensbench.models.sites import Site
from lensbench.models.text_encoder import TextEncoder
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt, Template, TokenText, encode_all
from lensbench.prompts.prompt import Prompt, choose
from lensbench.prompts.sets import PromptSet
from lensbench.prompts.template_day import template_day
from lensbench.quantized.peaks import Batch
from lensbench.records.engine import Job
from lensbench.records.parts import Part, Parts
from lensbench.residuals.capture import capture_positions
from lensbench.residuals.store import ResidualCache, keep, kept_part

_COUNTS = ("n_rows", "n_read_again")  # of a part: how many were read, and of these in float64


@dataclass(frozen=True)
class Reading:
    """One batch: which prompts, read how."""

    prompts: list[EncodedPrompt]
    settings: LensSettings


@dataclass(frozen=True)
class Reader(Sent):
    """What readings are made with: a model, or the residuals that a cache holds of it.

    `record` is what kept residuals say that they are of.
    """

    model: LensModel
    text: TokenText
    record: str
    cache: ResidualCache | None = None
    fitted: Mapping[str, str] = field(default_factory=dict)  # SHA-256 of fitted lenses' files

    @cached_property
    def lenses(self) -> Lenses:
        """Those of the whole run: a fitted one is loaded, and what it warns of said, once."""
        return Lenses(self.model, self.fitted)


def encode_prompts(
    model: LensModel | TextEncoder, prompt_set: PromptSet, limit: int | None, template: str
) -> tuple[list[EncodedPrompt], list[Problem]]:
    """Prompts of a set as the model's tokenizer sees them, and everything that is wrong with it.

    Raises InputProblems when none can be encoded.
    """
    encoder = model.encoder(cast(Template, template), prompt_set.name)
    if template == "chat":
        template_day(model.tokenizer)
    chosen = choose(prompt_set.prompts, limit)
    encoded, problems = encode_all(encoder, chosen, of=prompt_set.prompts)
    if not encoded:
        raise InputProblems(problems)
    return encoded, [*prompt_set.problems, *problems]


def gate_prompts(model: LensModel, encoded: Sequence[EncodedPrompt]) -> list[tuple[int, ...]]:
    """A short and a long prompt of the run that may share a batch, so that padding is tested.

    Those that the model gives NaN or Inf for are passed over: the run skips them and says so.
    Raises GateError where all are such.
    """
    found = short_and_long(encoded, partial(_is_finite, model), model.rope_switch)
    if not found:
        dtype = str(model.dtype).removeprefix("torch.")
        what = f"{model.name} in {dtype} gives NaN or Inf for every prompt"
        raise GateError(f"{what}, so nothing is reported. {not_finite_remedy(model)}")
    return found


def short_and_long(
    encoded: Sequence[EncodedPrompt],
    is_finite: Callable[[tuple[int, ...]], bool],
    switch: int | None = None,
) -> list[tuple[int, ...]]:
    """The shortest and the longest prompt that a model gives numbers for; none where none is such.

    `switch` as of `plan_readings`: both are on one side of it.
    """
    by_length = sorted((prompt.token_ids for prompt in encoded), key=lambda ids: (len(ids), ids))
    finite = lru_cache(is_finite)
    first = next((i for i, ids in enumerate(by_length) if finite(ids)), None)
    if first is None:
        return []
    short, longer = by_length[first], by_length[first + 1 :]
    if switch and len(short) <= switch:
        longer = [ids for ids in longer if len(ids) <= switch]
    return [short, *islice(filter(finite, reversed(longer)), 1)]


def _is_finite(model: LensModel, ids: tuple[int, ...]) -> bool:
    """Whether what the model makes of a prompt holds no NaN or Inf."""
    residuals = capture_positions(model, [ids], [range(len(ids))], [model.final_site])
    return not residuals.broken_rows()


def plan_readings(
    encoded: Sequence[EncodedPrompt],
    stages: Sequence[Sequence[Prompt]],
    settings: LensSettings,
    heatmap_prompts: int,
    switch: int | None = None,
) -> list[list[Reading]]:
    """What is read at each stage of a record: every prompt at its last position, some at all.

    The rows that go with base prompts (controls, paraphrases, reverses) and heat maps are read by
    the lenses that may stand in a headline only: `next` and `raw` are for sensitivity, which base
    prompts show.
    A later stage has only as many heat maps as the earlier ones lack. `switch` is the model's
    `rope_switch`, at which batches are parted.
    """
    plan = []
    for stage in stages:
        ids = {prompt.id for prompt in stage}
        own = [item for item in encoded if item.prompt.id in ids]
        base = [item.prompt for item in own if item.prompt.is_base]
        mapped = {prompt.id for prompt in choose(base, heatmap_prompts)}
        plan.append(list(_stage(own, mapped, settings, switch)))
        heatmap_prompts -= len(mapped)
    return plan


def _stage(
    encoded: Sequence[EncodedPrompt], mapped: set[str], settings: LensSettings, switch: int | None
) -> Iterator[Reading]:
    base = [item for item in encoded if item.prompt.is_base]
    linked = [item for item in encoded if not item.prompt.is_base]
    shown = [item for item in base if item.prompt.id in mapped and len(item.token_ids) > 1]
    headline = replace(settings, lenses=claiming(settings.lenses))
    yield from _batched(base, settings, switch)
    yield from _batched(linked, headline, switch)
    earlier = replace(headline, positions="earlier", keep_stream=False)
    yield from _batched(shown, earlier, switch)


def _batched(
    prompts: Sequence[EncodedPrompt], settings: LensSettings, switch: int | None
) -> Iterator[Reading]:
    lengths = [len(prompt.token_ids) for prompt in prompts]
    for items in plan_batches(lengths, settings.batch_tokens, switch):
        yield Reading([prompts[item] for item in items], settings)


def reading_cost(model: LensModel, shape: Shape, reading: Reading) -> Cost:
    """What a batch takes: its pass, and a row of logits for each cell, site and lens.

    Besides, for each cell: the mean of the head's rows under the model's output, or under a soft
    cap none; where that output is rounded, it is made anew in float32, once if the cells are few
    and else for each use, and once more for the gate. On a CPU it is at hand then: no mean is made,
    nor the last layer's row. Each row's logits of some tokens are compared with exact ones.
    """
    settings, ids = reading.settings, [prompt.token_ids for prompt in reading.prompts]
    wanted = [read_positions(prompt, settings.positions) for prompt in reading.prompts]
    columns = {position for positions in wanted for position in positions}
    n_cells, n_lenses = sum(map(len, wanted)), len(settings.lenses)
    sites = settings.sites_in(model)
    n_sites = len(sites)
    n_rows = n_cells * n_sites * n_lenses
    capped, rounds = model.readout.soft_cap is not None, model.readout.rounds
    few = n_cells <= model.readout.rows_at_once
    again = (2 if few else 3 + n_lenses * (1 + capped)) if rounds else 0
    at_hand = rounds and few and not model.readout.holds
    if at_hand and settings.products == "float32" and not settings.metrics:
        again -= (n_lenses - ("raw" in settings.lenses)) * (model.final_site in sites)
    head = shape.row_flops * (n_rows + n_cells * ((not (capped or at_hand)) + again))
    compared = len(range(shape.d_vocab)[sampled(shape.d_vocab)])
    head += n_rows * compared * 2 * shape.d_model
    n_last = len(ids) if settings.positions == "last" else 0
    rows = {"lens": n_rows, "prompts": n_last, "milestones": n_last * n_lenses}
    rows["lens.top_ids"] = n_rows * settings.top_k
    of_pass, stream = shape.texts(ids, len(columns)), n_cells * n_sites * shape.d_model
    kept = stream * model.dtype.itemsize if settings.keep_stream else 0
    batch = Batch(len(ids), max(map(len, ids)), 0, n_cells, len(ids) * len(columns))
    held = shape.held("lens", batch)
    return of_pass + Cost(flops=head, rows=rows, file_bytes=kept, working_bytes=held)


def read(reader: Reader, job: Job[Reading]) -> Part:
    """One batch through the lens and its gate."""
    model = reader.model
    readings = read_batch(model, job.item.prompts, job.item.settings, reader.cache, reader.lenses)
    tables, files = {"lens": lens_table(model, readings, reader.text)}, dict[str, bytes]()
    if readings.stream is not None:
        index, files = _kept(reader, job.number, readings.prompts, readings.sites, readings.stream)
        tables |= index
    n_tokens = sum(len(prompt.token_ids) for prompt in readings.prompts)
    notes: dict[str, Any] = {"gate_kl_bits": readings.gate_kl_bits, "n_tokens": n_tokens}
    notes |= {"n_rows": tables["lens"].num_rows, "n_read_again": readings.n_read_again}
    if readings.recomputed is not None:
        notes["recomputed"] = asdict(readings.recomputed)
    return Part(tables, readings.problems, notes, files)


def _kept(
    reader: Reader,
    number: int,
    prompts: Sequence[EncodedPrompt],
    sites: Sequence[Site],
    stream: Float[Tensor, "site cell d_model"],
) -> tuple[dict[str, pa.Table], dict[str, bytes]]:
    """The residual vectors that were read. What is bfloat16 in the model is so on disk."""
    kept = [keep(prompt, "last", reader.model.n_ctx) for prompt in prompts]
    half = stream.to(torch.bfloat16)
    exact = half if torch.equal(half.float(), stream) else stream
    by_site = dict(zip(sites, exact, strict=True))
    return kept_part(number, reader.model, kept, by_site, reader.record)


def lens_tables(
    reader: Reader, encoded: Sequence[EncodedPrompt], parts: Parts
) -> dict[str, pa.Table | Iterable[pa.Table]]:
    """The tables of a lens record. A prompt without a reading at its last position is in none.

    Readings and milestones come some prompts at a time: never is all that was read in memory.
    """
    model = reader.model
    read = parts.ordered("lens", "prompt_id", [item.prompt.id for item in encoded])
    there = {name for one in read for name in one.filter(one["is_last"])["prompt_id"].to_pylist()}
    measured = [item for item in encoded if item.prompt.id in there]
    prompts = prompts_table(model, measured, reader.text)
    ids = prompts["prompt_id"].combine_chunks()

    def lens() -> Iterator[pa.Table]:
        for piece in read:
            yield piece.filter(pc.is_in(piece["prompt_id"], ids))

    def milestones() -> Iterator[pa.Table]:
        for piece in lens():
            own = prompts.filter(pc.is_in(ids, piece["prompt_id"].unique()))
            yield milestones_table(model.name, model.n_layers, piece, own)

    return {"prompts": prompts, "lens": lens(), "milestones": milestones()}


def made_again_in_run(parts: Parts, widened: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For a manifest: how many readings were made again in float64 (`vocabulary/bound.py`).

    And of products of bfloat16 parts what share of all logits was, and the worst error. The last
    narrower record that was finished says it of all that were measured before. What an older
    lensbench did not count is not in `n_rows`, and takes `recomputed` with it.
    """
    finished = [narrower for narrower in widened if narrower["status"] == "complete"]
    before = finished[-1] if finished else {}
    notes = parts.notes
    counts = [before.get("read_again", {}), *notes]
    sums = {name: sum(one.get(name, 0) for one in counts) for name in _COUNTS}
    found = [Recomputed(**note["recomputed"]) for note in notes if "recomputed" in note]
    if before:
        told = before.get("recomputed", {})
        if "n_logits" not in told:
            return {"read_again": sums}
        found.append(Recomputed(told["n"], told["n_logits"], told["worst_error_roundings"]))
    return {"read_again": sums} | _recomputed(found)


def _recomputed(found: Sequence[Recomputed]) -> dict[str, Any]:
    total = Recomputed()
    for one in found:
        total.add(one)
    if not total.n_logits:
        return {}
    counts = {"n": total.n, "n_logits": total.n_logits, "share": total.n / total.n_logits}
    return {"recomputed": counts | {"worst_error_roundings": total.worst}}


def gate_of_run(
    model: LensModel,
    identities: Sequence[Identity],
    parts: Parts,
    widened: Sequence[Mapping[str, Any]],
) -> list[Identity]:
    """The gate's identities, the first one that of the worst cell of all that was measured."""
    errors = [note["gate_kl_bits"] for note in parts.notes]
    errors += [narrower["gate"][0]["error"] for narrower in widened if narrower["gate"]]
    found = [error for error in errors if error is not None]
    return [lens_identity(model, worst(found)), *identities[1:]] if found else [*identities]
