"""Running: every model over the prompts, batch by batch, resumable at any point."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import torch

from lensbench.checkpoints.ref import ModelRef, model_refs
from lensbench.errors import InputProblems, LensbenchError, Problem
from lensbench.lens.gate import Identity, check_identities, lens_identity, require
from lensbench.lens.logit import BatchReadings, read_batch
from lensbench.lens.milestones import milestones_table
from lensbench.lens.settings import LensSettings
from lensbench.lens.table import lens_table, prompts_table
from lensbench.models.adapted import facts_of
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt, Encoder, Template, TokenText, encode_all
from lensbench.prompts.prompt import Prompt, choose
from lensbench.prompts.sets import PromptSet, load_prompts
from lensbench.records.manifest import new_manifest, peak_memory_bytes, versions
from lensbench.records.residuals import shards_of
from lensbench.records.store import RecordStore, disk_error, folder_name
from lensbench.residuals.kept import RESIDUAL_TABLES, has_residuals
from lensbench.residuals.store import ResidualCache, keep, write_kept
from lensbench.studies.lens_spec import RunSpec

Progress = Callable[[str, int, int], None]  # (model, batches done, batches in all)


@dataclass
class Outcome:
    """What became of a run: record folders, what failed, and the items that were left out."""

    folders: list[Path] = field(default_factory=list)
    failed: dict[str, LensbenchError] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Every model and every prompt was measured."""
        return not self.failed and not self.problems


@dataclass(frozen=True)
class Job:
    """One batch of a run: which prompts, read how."""

    prompts: list[EncodedPrompt]
    settings: LensSettings


def run(spec: RunSpec, out: Path, progress: Progress = lambda *_: None) -> Outcome:
    """Measure every model of `spec` into `out/<model>/`; run again to go on after an interruption.

    A model that cannot be measured is recorded in the outcome and the others go on.

    Raises:
        InputProblems: unknown models, prompt set or relation, before anything is loaded.
    """
    refs, prompt_set = _checked(spec)
    outcome = Outcome(problems=list(prompt_set.problems))
    for ref in refs:
        name = str(ref)
        store = RecordStore(out / folder_name(name), name)
        try:
            outcome.problems += _run_model(spec, ref, prompt_set, store, progress)
            outcome.folders.append(store.folder)
        except LensbenchError as error:
            outcome.failed[name] = error
        except OSError as error:
            outcome.failed[name] = disk_error(store.folder, error)
    return outcome


def _checked(spec: RunSpec) -> tuple[list[ModelRef], PromptSet]:
    """Models and prompts; every problem with the spec is raised at once, before any work."""
    refs, problems = model_refs(spec.models)
    if problems:
        raise InputProblems(problems)
    prompt_set = load_prompts(spec.prompts)
    if spec.relations:
        prompt_set = prompt_set.only(spec.relations)
    return refs, prompt_set


def _run_model(
    spec: RunSpec,
    ref: ModelRef,
    prompt_set: PromptSet,
    store: RecordStore,
    progress: Progress,
) -> list[Problem]:
    """One model, from where it stopped, to a complete record. Returns its own problems."""
    started = time.monotonic()
    files = facts_of(ref, spec.dtype, spec.device)
    prompts = choose(prompt_set.prompts, spec.limit)
    settings = spec.settings() | {
        "prompts": prompt_set.name,
        "prompts_sha256": prompt_set.sha256,
        "n_prompts": len(prompts),
        "seed": 0,
    }
    with store.locked():
        if is_complete(store, settings, files):
            return [p for p in store.problems() if p not in prompt_set.problems]
        model = load_model(ref, dtype=spec.dtype, device=spec.device)
        encoded, problems = encode_prompts(model, prompts, spec.template, prompt_set.name)
        manifest = new_manifest(model.facts() | files, settings)
        if not ref.plain:
            manifest["versions"] |= versions("inference")
        store.start(manifest)
        identities = check_identities(model, gate_prompts(encoded))
        require(identities)
        jobs = list(lens_jobs(spec, encoded))
        kept = measure(model, jobs, store, manifest, progress)
        if spec.keep_residuals:
            for name in RESIDUAL_TABLES:
                store.join_parts(len(jobs), name)
        lens, found, notes = store.parts(len(jobs), "lens")
        gate_kl = max(
            (n["gate_kl_bits"] for n in notes if n["gate_kl_bits"] is not None), default=None
        )
        problems = list(dict.fromkeys(problems + found))  # a heat map prompt is read twice
        left_out = prompt_set.problems + problems
        write_tables(model, store, encoded, lens, left_out)
        store.finish(
            manifest
            | {
                "gate": [i.as_dict() for i in _with_run_identity(model, identities, gate_kl)],
                "problems": len(left_out),
                "resumed_batches": kept,
                "wall_s": round(time.monotonic() - started, 1),
                "peak_memory_bytes": peak_memory_bytes(),
            }
        )
    return problems


def is_complete(store: RecordStore, settings: dict[str, Any], files: dict[str, Any]) -> bool:
    """The same run was finished before, its residuals included if they are to be kept."""
    kept = not settings.get("keep_residuals") or has_residuals(store.folder)
    return kept and store.is_complete(settings, files)


def encode_prompts(
    model: LensModel, prompts: Sequence[Prompt], template: str, where: str
) -> tuple[list[EncodedPrompt], list[Problem]]:
    """Prompts as the model's tokenizer sees them. Raises InputProblems when none can be encoded."""
    encoder = Encoder(model.tokenizer, model.n_ctx, cast(Template, template), where)
    encoded, problems = encode_all(encoder, prompts)
    if not encoded:
        raise InputProblems(problems)
    return encoded, problems


def gate_prompts(encoded: Sequence[EncodedPrompt]) -> list[tuple[int, ...]]:
    """A short and a long prompt of the run, so that padding is tested too."""
    by_length = sorted((prompt.token_ids for prompt in encoded), key=lambda ids: (len(ids), ids))
    return [by_length[0], by_length[-1]] if len(by_length) > 1 else by_length


def lens_jobs(spec: RunSpec, encoded: Sequence[EncodedPrompt]) -> Iterator[Job]:
    """What is read: every prompt at its last position, some at all positions for heat maps.

    Headlines, and so their sensitivity to the lens, come from base prompts; the rows that go with
    them (controls, paraphrases, reverses) are read by the first lens only, which halves the work.
    """
    base = [item for item in encoded if item.prompt.is_base]
    linked = [item for item in encoded if not item.prompt.is_base]
    mapped = {prompt.id for prompt in choose([e.prompt for e in base], spec.heatmap_prompts)}
    shown = [item for item in base if item.prompt.id in mapped and len(item.token_ids) > 1]
    yield from _batched(base, _settings(spec, spec.lenses, "last"))
    yield from _batched(linked, _settings(spec, spec.lenses[:1], "last"))
    yield from _batched(shown, _settings(spec, spec.lenses[:1], "earlier"))


def _settings(spec: RunSpec, lenses: tuple[str, ...], positions: str) -> LensSettings:
    return LensSettings(
        lenses,
        spec.sites,
        positions=positions,
        top_k=spec.top_k,
        batch_tokens=spec.batch_tokens,
        keep_stream=spec.keep_residuals and positions == "last",
    )


def _batched(prompts: Sequence[EncodedPrompt], settings: LensSettings) -> Iterator[Job]:
    lengths = [len(prompt.token_ids) for prompt in prompts]
    for items in plan_batches(lengths, settings.batch_tokens):
        yield Job([prompts[item] for item in items], settings)


def measure(
    model: LensModel,
    jobs: Sequence[Job],
    store: RecordStore,
    manifest: dict[str, Any],
    progress: Progress,
    cache: ResidualCache | None = None,
) -> int:
    """Write every batch that is not there yet. Returns how many were there already."""
    text = TokenText(model.tokenizer)
    kept = 0
    for number, job in enumerate(jobs):
        progress(store.model, number, len(jobs))
        if store.has_part(number):
            kept += 1
            continue
        readings = read_batch(model, job.prompts, job.settings, cache)
        tables = {"lens": lens_table(model, readings, text)}
        if manifest["settings"].get("keep_residuals"):
            tables |= _kept(model, store.folder, number, readings, shards_of(manifest))
        notes = {"gate_kl_bits": readings.gate_kl_bits}
        store.write_part(number, tables, readings.problems, notes)
    progress(store.model, len(jobs), len(jobs))
    return kept


def _kept(
    model: LensModel, folder: Path, number: int, readings: BatchReadings, record: str
) -> dict[str, pa.Table]:
    """Write the residual vectors of one batch; the tables that say where each one is.

    Heat maps' cells are not kept. What is bfloat16 in the model is bfloat16 on disk: no rounding.
    """
    if readings.stream is None:
        return write_kept(folder, number, model, [], {}, record)
    prompts = [keep(prompt, "last", model.n_ctx) for prompt in readings.prompts]
    half = readings.stream.to(torch.bfloat16)
    stream = half if torch.equal(half.float(), readings.stream) else readings.stream
    by_site = dict(zip(readings.sites, stream, strict=True))
    return write_kept(folder, number, model, prompts, by_site, record)


def write_tables(
    model: LensModel,
    store: RecordStore,
    encoded: Sequence[EncodedPrompt],
    lens: pa.Table,
    problems: list[Problem],
) -> None:
    """The record's four tables, from the lens' readings of every batch."""
    there = set(lens.filter(lens["is_last"])["prompt_id"].to_pylist())
    measured = [item for item in encoded if item.prompt.id in there]
    lens = lens.filter(pc.is_in(lens["prompt_id"], pa.array(sorted(there), pa.string())))
    prompts = prompts_table(model, measured, TokenText(model.tokenizer))
    store.write_table("prompts", prompts)
    store.write_table("lens", lens)
    store.write_table("milestones", milestones_table(store.model, model.n_layers, lens, prompts))
    store.write_table("problems", store.problems_table(problems))


def _with_run_identity(
    model: LensModel, identities: Sequence[Identity], gate_kl: float | None
) -> list[Identity]:
    """The gate's list, its first identity replaced by the worst cell of the whole run."""
    if gate_kl is None:
        return list(identities)
    return [lens_identity(model, gate_kl), *identities[1:]]
