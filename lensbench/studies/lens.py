"""Lens runs: every model over the prompts, each into a record of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef, readable_refs
from lensbench.costs.outlined import Outlined
from lensbench.costs.planned import Jobs, Planned, impossible, plan_record, unreadable
from lensbench.errors import InputProblems, LensbenchError, Problem
from lensbench.fitting.spec import FitSpec
from lensbench.lens.fitted.artifact import lens_kinds
from lensbench.lens.gate import check_identities, require
from lensbench.lens.record import (
    Reader,
    Reading,
    encode_prompts,
    gate_of_run,
    gate_prompts,
    lens_tables,
    made_again_in_run,
    plan_readings,
    read,
    reading_cost,
)
from lensbench.lens.registry import LENSES, lens_name
from lensbench.lens.settings import LensSettings
from lensbench.lens.vocabulary.products import measured, said_of_products
from lensbench.models.adapted import facts_of
from lensbench.models.load import Loader
from lensbench.models.model import LensModel
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.prompts.encode import EncodedPrompt, TokenText
from lensbench.prompts.prompt import added, choose
from lensbench.prompts.sets import PromptSet, load_prompts
from lensbench.quantized.peaks import Batch, Use
from lensbench.records.engine import Outcome, Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request, Standing
from lensbench.records.schema.residuals import RESIDUAL_CELLS, RESIDUAL_INDEX
from lensbench.records.store import RecordStore, folder_name
from lensbench.studies.specs.fits import fit_spec
from lensbench.studies.specs.lens import RunSpec
from lensbench.studies.stages.fit import fit_lens
from lensbench.studies.stages.fit_cost import plan_fits
from lensbench.studies.stages.sized import sized, tokens_of
from lensbench.studies.stages.turns import Turns, in_turn

_KEPT = (RESIDUAL_INDEX.name, RESIDUAL_CELLS.name)  # tables of a run that keeps its residuals
GROWS = ("limit", "n_prompts")  # settings by which a record of prompts can be widened


def run(
    spec: RunSpec, out: Path | str, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Measure every model of `spec` into `out/<model>/`; run again to go on after an interruption.

    With a larger limit a record is widened. Lenses of the spec's `fit` are fitted first, into
    `out/lenses/<model>/<lens>/`. A model that cannot be measured is recorded in the outcome and the
    others go on.

    Raises:
        InputProblems: unknown models, prompt set or relation, or a fitted lens without `final`,
            before anything is loaded.
    """
    require_final(spec.lenses)
    prompt_set = load_prompts(spec.prompts, spec.relations)
    outcome, load = Outcome(problems=list(prompt_set.problems)), Loader()
    refs = in_turn(spec.models, outcome, notify)
    turns = Turns(refs, outcome, load.let_go, notify)
    for ref in turns:
        store = RecordStore(Path(out) / folder_name(str(ref)), str(ref))
        with turns.attempt(store):
            fits = _fit(spec, ref, Path(out) / "lenses" / folder_name(ref.name), progress, load)
            outcome.folders += [folder for folder in fits.folders if folder not in outcome.folders]
            outcome.problems += fits.problems
            own = sized(_reading(spec, fits.folders))
            problems = _measure(own, ref, prompt_set, store, progress, load)
            outcome.problems += [p for p in problems if p not in prompt_set.problems]
    return outcome


def require_final(lenses: Sequence[str]) -> None:
    """A record's depths are of prompts that the model itself is right on, as `final` reads it.

    Raises InputProblems for fitted lenses without it.
    """
    fitted = [lens_name(one) for one in lenses if one not in LENSES]
    if fitted and "final" not in lenses:
        what = f"{', '.join(fitted)} without final, which says what the model itself answers"
        raise InputProblems([Problem("lenses", what, "Add --lens final: both are read at once.")])


def _fit(spec: RunSpec, ref: ModelRef, folder: Path, watch: Watch, load: Loader) -> Outcome:
    """The lenses that the spec has fitted, each to the model's weights as they are."""
    found = Outcome()
    for method, how in _fits(spec, ref).items():
        fitted = fit_lens(how, folder / method, watch, load)
        found.folders.append(fitted.folder)
        found.problems += fitted.problems
    return found


def _fits(spec: RunSpec, ref: ModelRef) -> dict[str, FitSpec]:
    """How each of them is fitted."""
    return {
        method: fit_spec(spec.fit, method, ref.name, spec.dtype, spec.device) for method in spec.fit
    }


def _reading(spec: RunSpec, fitted: Sequence[Path]) -> RunSpec:
    """The spec with folders for the names of lenses that were fitted for this run."""
    folders = {folder.name: str(folder) for folder in fitted}
    return spec.changed(lenses=[folders.get(one, one) for one in spec.lenses], fit={})


def _measure(
    spec: RunSpec,
    ref: ModelRef,
    prompt_set: PromptSet,
    store: RecordStore,
    watch: Watch,
    load: Loader,
) -> list[Problem]:
    """One model's record, from where it stopped. Returns what was skipped."""
    kinds = lens_kinds(spec.lenses, ref.name)
    fitted = fitted_sha256(kinds)
    watch(Progress(f"hashing the weights of {store.model}"))
    use = None if store.manifest() else Use("lens", Batch.of_tokens(tokens_of(spec)))
    facts = facts_of(ref, spec.dtype, spec.device, use)
    request = _request(spec, ref, prompt_set, store, kinds, facts)

    def prepare(record: Recording) -> Work[Reader, Reading]:
        watch(Progress(f"loading {store.model}"))
        model = load(ref, dtype=spec.dtype, device=spec.device)
        encoded, problems = encode_prompts(model, prompt_set, spec.limit, spec.template)
        watch(Progress(f"testing the gate of {store.model}"))
        shown = gate_prompts(model, encoded)
        identities = check_identities(model, shown)
        require(identities)
        products = record.said("products")
        if products is None and spec.products != "float32":
            watch(Progress(f"measuring the head's products of {store.model}"))
            products = measured(model, spec.products, shown)
        record.begin({**model.facts(), **request.model, **said_of_products(products)})
        reader = Reader(model, TokenText(model.tokenizer), record.id, fitted=fitted)

        def finish(parts: Parts) -> Finished:
            tables = lens_tables(reader, encoded, parts)
            identity_errors = gate_of_run(model, identities, parts, record.widened)
            facts = {"lenses": kinds} if kinds else {}
            facts |= made_again_in_run(parts, record.widened)
            gate = [identity.as_dict() for identity in identity_errors]
            return Finished([*problems, *parts.problems], tables, gate, facts=facts)

        used = products["used"] if products else "float32"
        readings = _readings(spec, model, prompt_set, encoded, record.widths, used)
        return Work(reader, read, readings, finish)

    return make(request, prepare, watch)


def _request(
    spec: RunSpec,
    ref: ModelRef,
    prompt_set: PromptSet,
    store: RecordStore,
    kinds: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> Request:
    """One model's record; `kinds` are those of its fitted lenses, `facts` what is known of it."""
    return Request(
        store,
        spec.settings() | prompt_settings(prompt_set, spec.limit) | fitted_settings(kinds),
        facts,
        tables=_KEPT if spec.keep_residuals else (),
        grows=GROWS,
        again=ref.facts,
    )


def _readings(
    spec: RunSpec,
    model: LensModel,
    prompt_set: PromptSet,
    encoded: Sequence[EncodedPrompt],
    widths: Sequence[Mapping[str, Any]],
    products: str = "float32",
) -> list[list[Reading]]:
    """The jobs of a record, by its widths; `products`: how the head's are made in this run."""
    stages = added(prompt_set.prompts, [width["limit"] for width in widths])
    settings = replace(lens_settings(spec), products=products)
    return plan_readings(encoded, stages, settings, spec.heatmap_prompts, model.rope_switch)


def plan(spec: RunSpec, out: Path | str) -> Iterator[Planned]:
    """What `run` would make into `out`, record by record: fits first, then the readings.

    Raises InputProblems as `run`.
    """
    require_final(spec.lenses)
    refs, unknown = readable_refs(spec.models)
    prompt_set = load_prompts(spec.prompts, spec.relations)
    yield from unreadable(unknown, out)
    for ref in refs:
        home = Path(out) / "lenses" / folder_name(ref.name)
        fits = list(plan_fits({home / method: how for method, how in _fits(spec, ref).items()}))
        yield from fits
        whole = [one.folder for one in fits if one.finished]
        own = sized(_reading(spec, whole))
        store = RecordStore(Path(out) / folder_name(str(ref)), str(ref))
        try:
            kinds = lens_kinds(own.lenses, ref.name) if len(whole) == len(fits) else {}
        except LensbenchError as error:  # the file of one of them is gone
            yield impossible(str(ref), store.folder, error)
            continue
        jobs = partial(_jobs, own, prompt_set)
        request = _request(own, ref, prompt_set, store, kinds, {})
        if len(whole) < len(fits):  # which lenses these are is known once all are fitted
            request = replace(request, decided=("lens_sha256",))
        yield plan_record(str(ref), ref, request, jobs, spec.dtype, spec.device)


def _jobs(
    spec: RunSpec, prompt_set: PromptSet, known: Outlined[LensModel], how_far: Standing
) -> Jobs[Reading]:
    """The readings of one model, of its outline alone."""
    model = known.model
    encoded, problems = encode_prompts(model, prompt_set, spec.limit, spec.template)
    readings = _readings(spec, model, prompt_set, encoded, how_far.widths)
    cost = partial(reading_cost, model, known.shape)
    return Jobs(readings, cost, n_prompts=len(encoded), problems=problems)


def fitted_settings(kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Which fitted lenses these are: a record is not gone on with after one was fitted anew."""
    hashes = fitted_sha256(kinds)
    return {"lens_sha256": hashes} if hashes else {}


def fitted_sha256(kinds: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of each fitted lens the hash of its file."""
    return {name: kind["lens_sha256"] for name, kind in kinds.items() if kind["fitted"]}


def prompt_settings(prompt_set: PromptSet, limit: int | None) -> dict[str, Any]:
    """What decides the prompts of a record, for its manifest."""
    return {
        "prompts": prompt_set.name,
        "prompts_sha256": prompt_set.identity,
        "n_prompts": len(choose(prompt_set.prompts, limit)),
        "seed": 0,
    }


def lens_settings(spec: RunSpec) -> LensSettings:
    """How every prompt is read at its last position."""
    return LensSettings(
        spec.lenses,
        spec.sites,
        top_k=spec.top_k,
        metrics=spec.metrics,
        batch_tokens=tokens_of(spec),
        keep_stream=spec.keep_residuals,
    )
