"""Running: every model over the prompts, batch by batch, resumable at any point."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from lensbench.checkpoints.hashes import hashes
from lensbench.checkpoints.source import locate, public_source
from lensbench.errors import InputProblems, LensbenchError, Problem, RecordsError
from lensbench.lens.gate import Identity, check_identities, lens_identity, require
from lensbench.lens.logit import LensSettings, read_batch
from lensbench.lens.milestones import milestones_table
from lensbench.lens.table import lens_table, prompts_table
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.models.readout import Lens, Point
from lensbench.prompts.batch import plan_batches
from lensbench.prompts.encode import EncodedPrompt, Encoder, Template, TokenText, encode_all
from lensbench.prompts.prompt import Prompt, choose
from lensbench.prompts.sets import PromptSet, load_prompts
from lensbench.records.manifest import new_manifest, peak_memory_bytes
from lensbench.records.store import RecordStore, folder_name
from lensbench.runs.spec import RunSpec

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
        InputProblems: unknown models, prompt set, relation or settings, before anything is loaded.
    """
    prompt_set = _prompt_set(spec)
    outcome = Outcome(problems=list(prompt_set.problems))
    for name in spec.models:
        store = RecordStore(out / folder_name(name), name)
        try:
            outcome.problems += _run_model(spec, prompt_set, store, progress)
            outcome.folders.append(store.folder)
        except LensbenchError as error:
            outcome.failed[name] = error
        except OSError as error:
            outcome.failed[name] = _disk_error(store.folder, error)
    return outcome


def _prompt_set(spec: RunSpec) -> PromptSet:
    """The prompts of the run; every problem with the spec is raised at once, before any work."""
    problems = spec.problems("settings")
    for name in spec.models:
        try:
            locate(name)
        except InputProblems as error:
            problems += error.problems
        except LensbenchError as error:
            problems.append(Problem(f"model {name}", str(error).rstrip("."), ""))
    if problems:
        raise InputProblems(problems)
    prompt_set = load_prompts(spec.prompts)
    if spec.relations:
        prompt_set = prompt_set.only(spec.relations)
    return prompt_set


def _run_model(
    spec: RunSpec, prompt_set: PromptSet, store: RecordStore, progress: Progress
) -> list[Problem]:
    """One model, from where it stopped, to a complete record. Returns its own problems."""
    started = time.monotonic()
    folder = locate(store.model).require_folder()
    files = hashes(folder)
    prompts = choose(prompt_set.prompts, spec.limit)
    settings = spec.settings() | {
        "prompts": prompt_set.name,
        "prompts_sha256": prompt_set.sha256,
        "n_prompts": len(prompts),
        "seed": 0,
    }
    with store.locked():
        if _is_complete(store, settings, files):
            return [p for p in store.problems() if p not in prompt_set.problems]
        model = load_model(store.model, dtype=spec.dtype, device=spec.device)
        encoded, problems = _encode(model, prompts, spec, prompt_set.name)
        manifest = new_manifest(_model_facts(model) | files, settings)
        store.start(manifest)
        identities = check_identities(model, _gate_prompts(encoded))
        require(identities)
        jobs = list(_jobs(spec, encoded))
        kept = _measure(model, jobs, store, progress)
        lens, found, notes = store.parts(len(jobs), "lens")
        gate_kl = max(
            (n["gate_kl_bits"] for n in notes if n["gate_kl_bits"] is not None), default=None
        )
        problems = list(dict.fromkeys(problems + found))  # a heat map prompt is read twice
        left_out = prompt_set.problems + problems
        _write_tables(model, store, encoded, lens, left_out)
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


def _is_complete(store: RecordStore, settings: dict[str, Any], files: dict[str, str]) -> bool:
    """The same run was finished before: nothing to do, not even to load the model."""
    earlier = store.manifest()
    if earlier is None or earlier["status"] != "complete" or not store.has_tables():
        return False
    same_model = all(earlier["model"].get(key) == value for key, value in files.items())
    return same_model and earlier["settings"] == settings


def _encode(
    model: LensModel, prompts: Sequence[Prompt], spec: RunSpec, where: str
) -> tuple[list[EncodedPrompt], list[Problem]]:
    encoder = Encoder(model.tokenizer, model.n_ctx, cast(Template, spec.template), where)
    encoded, problems = encode_all(encoder, prompts)
    if not encoded:
        raise InputProblems(problems)
    return encoded, problems


def _gate_prompts(encoded: Sequence[EncodedPrompt]) -> list[tuple[int, ...]]:
    """A short and a long prompt of the run, so that padding is tested too."""
    by_length = sorted((prompt.token_ids for prompt in encoded), key=lambda ids: (len(ids), ids))
    return [by_length[0], by_length[-1]] if len(by_length) > 1 else by_length


def _jobs(spec: RunSpec, encoded: Sequence[EncodedPrompt]) -> Iterator[Job]:
    """What is read: every prompt at its last position, some at all positions for heat maps.

    Headlines, and so their sensitivity to the lens, come from base prompts; the rows that go with
    them (controls, paraphrases, reverses) are read by the first lens only, which halves the work.
    """
    lenses = cast(tuple[Lens, ...], spec.lenses)
    base = [item for item in encoded if item.prompt.is_base]
    linked = [item for item in encoded if not item.prompt.is_base]
    mapped = {prompt.id for prompt in choose([e.prompt for e in base], spec.heatmap_prompts)}
    shown = [item for item in base if item.prompt.id in mapped and len(item.token_ids) > 1]
    yield from _batched(base, _settings(spec, lenses, "last"))
    yield from _batched(linked, _settings(spec, lenses[:1], "last"))
    yield from _batched(shown, _settings(spec, lenses[:1], "earlier"))


def _settings(spec: RunSpec, lenses: tuple[Lens, ...], positions: str) -> LensSettings:
    points = cast(tuple[Point, ...], spec.points)
    return LensSettings(lenses, points, None, positions, spec.top_k, spec.batch_tokens)


def _batched(prompts: Sequence[EncodedPrompt], settings: LensSettings) -> Iterator[Job]:
    lengths = [len(prompt.token_ids) for prompt in prompts]
    for items in plan_batches(lengths, settings.batch_tokens):
        yield Job([prompts[item] for item in items], settings)


def _measure(model: LensModel, jobs: Sequence[Job], store: RecordStore, progress: Progress) -> int:
    """Write every batch that is not there yet. Returns how many were there already."""
    text = TokenText(model.tokenizer)
    kept = 0
    for number, job in enumerate(jobs):
        progress(store.model, number, len(jobs))
        if store.has_part(number):
            kept += 1
            continue
        readings = read_batch(model, job.prompts, job.settings)
        if readings.gate_kl_bits is not None:
            require([lens_identity(model, readings.gate_kl_bits)])
        table = lens_table(model, readings, text)
        notes = {"gate_kl_bits": readings.gate_kl_bits}
        store.write_part(number, {"lens": table}, readings.problems, notes)
    progress(store.model, len(jobs), len(jobs))
    return kept


def _write_tables(
    model: LensModel,
    store: RecordStore,
    encoded: Sequence[EncodedPrompt],
    lens: pa.Table,
    problems: list[Problem],
) -> None:
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


def _model_facts(model: LensModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "source": public_source(model.name, model.source),
        "model_type": model.model_type,
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "d_vocab": model.d_vocab,
        "n_params": model.n_params,
        "norm": model.norm,
        "soft_cap": model.readout.soft_cap,
        "parallel": model.parallel,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
    }


def _disk_error(folder: Path, error: OSError) -> RecordsError:
    what = f"{error.filename or folder}: {error.strerror or error}"
    return RecordsError(
        f"{what}. What was written before is kept: mend this (free some space?) and run the same "
        "command again to go on."
    )
