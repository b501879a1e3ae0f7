"""A transfer study: lenses of each variant of a model, and the first one's read on all of them.

The lenses are records of their own, in `lenses/<variant>/<lens>`, each resumable by itself. Every
variant is a job of the record `transfer`. Variants have one model's files, so that there is nothing
to read ahead; the `Loader` holds one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import FORM, ModelRef, model_refs
from lensbench.corpora.corpus import Corpus
from lensbench.costs.cost import Cost, total
from lensbench.costs.outlined import Outlined
from lensbench.costs.planned import Jobs, Planned, plan_record
from lensbench.errors import InputProblems, Problem
from lensbench.fitting.quality import measure
from lensbench.fitting.windows import Window, parts_of
from lensbench.lens.base import Final, Lens
from lensbench.lens.fitted.affine import Affine
from lensbench.lens.fitted.artifact import FILE, FittedLens, open_fitted
from lensbench.models.adapted import facts_of, require_loadable
from lensbench.models.load import Loader
from lensbench.models.model import LensModel
from lensbench.progress import Notify, Progress, Watch, ignore
from lensbench.records.engine import Job, Outcome, Work, make, require_here
from lensbench.records.open import open_record
from lensbench.records.parts import Part, Parts
from lensbench.records.recording import Finished, Recording, Request, Standing
from lensbench.records.schema.fit import TRANSFER
from lensbench.records.store import RecordStore, folder_name
from lensbench.studies.specs.fits import fit_spec
from lensbench.studies.specs.transfer import TransferSpec
from lensbench.studies.stages.fit import corpus_of, fit_lens
from lensbench.studies.stages.fit_arithmetic import FitCost
from lensbench.studies.stages.fit_cost import plan_fits


@dataclass(frozen=True)
class Study:
    """What the variants are read with."""

    spec: TransferSpec
    refs: list[ModelRef]
    lenses: Mapping[tuple[str, str], FittedLens]  # by lens and variant
    corpora: Mapping[str, Corpus]  # by lens
    watch: Watch
    load: Loader

    def readings(self, lens: str, variant: ModelRef, model: LensModel) -> dict[str, Lens]:
        """The variant's own lens, the first variant's (unless it is the same), the logit lens.

        Whatever a lens was fitted to: that is what is measured.
        """
        names = {"first": str(self.refs[0]), "own": str(variant)}
        if names["first"] == names["own"]:
            del names["first"]
        fitted: dict[str, Lens] = {
            reading: Affine(model, self.lenses[lens, name].maps, reading)
            for reading, name in names.items()
        }
        return fitted | {"final": Final(model)}


def run(
    spec: TransferSpec, out: Path, progress: Watch = ignore, notify: Notify = ignore
) -> Outcome:
    """Fit every lens to every variant, then read each variant by its own and by the first one's.

    Raises what `fit_lens` raises; InputProblems with all that is wrong with the models.
    """
    require_here(spec)
    refs, problems, load = model_refs(spec.models), list[Problem](), Loader()
    _require_variants(refs)
    store = RecordStore(out / "transfer", refs[0].name, "lens_transfer")
    for ref in refs if store.manifest() is None else []:  # before hours go into the first of them
        require_loadable(ref, spec.dtype, spec.device)
    folders, lenses = list[Path](), dict[tuple[str, str], FittedLens]()
    for text, ref in zip(spec.models, refs, strict=True):
        for lens in spec.lenses:
            folder = out / "lenses" / folder_name(str(ref)) / lens
            how = fit_spec(spec.fit, lens, text, spec.dtype, spec.device)
            problems += fit_lens(how, folder, progress, load).problems
            lenses[lens, str(ref)] = open_fitted(folder)
            folders.append(folder)
    settings = _settings(spec, refs, folders)
    request = Request(store, settings, facts_of(refs[0], spec.dtype, spec.device))

    def prepare(record: Recording) -> Work[Study, ModelRef]:
        first = lenses[spec.lenses[0], str(refs[0])].record.model
        corpora: dict[str, Corpus] = {
            lens: corpus_of(
                fit_spec(spec.fit, lens, spec.models[0], spec.dtype, spec.device),
                partial(load, refs[0], dtype=spec.dtype, device=spec.device),
            )
            for lens in spec.lenses
        }
        record.begin({**first, **request.model})

        def finish(parts: Parts) -> Finished:
            return Finished(list(dict.fromkeys([*problems, *parts.problems])))

        study = Study(spec, refs, lenses, corpora, progress, load)
        return Work(study, read, [refs], finish, unit="variants")

    problems = make(request, prepare, progress)
    return Outcome([store.folder, *folders], problems=problems)


def plan(spec: TransferSpec, out: Path) -> Iterator[Planned]:
    """What `run` would make into `out`: every variant's lenses, and all variants read by them.

    Raises InputProblems as it does.
    """
    refs = model_refs(spec.models)
    _require_variants(refs)
    fits = list[Planned]()
    for text, ref in zip(spec.models, refs, strict=True):
        home = out / "lenses" / folder_name(str(ref))
        hows = {
            home / lens: fit_spec(spec.fit, lens, text, spec.dtype, spec.device)
            for lens in spec.lenses
        }
        fits += plan_fits(hows)
    yield from fits
    whole = all(one.finished for one in fits)
    settings = _settings(spec, refs, [one.folder for one in fits] if whole else [])
    store = RecordStore(out / "transfer", refs[0].name, "lens_transfer")
    # Which lenses these are is known once they are fitted.
    request = Request(store, settings, {}, decided=() if whole else ("fitted",))
    jobs = partial(_jobs, spec, refs)
    yield plan_record("transfer", refs[0], request, jobs, spec.dtype, spec.device, "fit")


def _settings(
    spec: TransferSpec, refs: Sequence[ModelRef], fitted: Sequence[Path]
) -> dict[str, Any]:
    """What decides the numbers; `fitted`: the folder of each variant's lenses, in their order."""
    read = [(lens, str(ref)) for ref in refs for lens in spec.lenses]
    hashes = [open_record(folder).manifest["checksums"][FILE] for folder in fitted]
    lenses = [
        {"lens": lens, "fitted_to": variant, "lens_sha256": sha256}
        for (lens, variant), sha256 in zip(read, hashes, strict=bool(hashes))
    ]
    known = {"fitted": lenses} if fitted else {}
    return spec.settings() | {"variants": list(map(str, refs))} | known


def _jobs(
    spec: TransferSpec, refs: Sequence[ModelRef], known: Outlined[LensModel], _: Standing
) -> Jobs[ModelRef]:
    """A job a variant, of windows as the fits want them; all variants have one shape."""
    model, shape = known.model, known.shape
    fits = [
        FitCost.before_reading(shape, model.n_layers, model.n_ctx, how.changed(batch_tokens=512))
        for how in (
            fit_spec(spec.fit, lens, refs[0].name, spec.dtype, spec.device) for lens in spec.lenses
        )
    ]

    def cost(ref: ModelRef) -> Cost:
        n_fitted = 1 if str(ref) == str(refs[0]) else 2
        return total(fit.reading("test", n_fitted) for fit in fits)

    return Jobs([refs], cost, n_models=len(refs))


def _require_variants(refs: Sequence[ModelRef]) -> None:
    names = dict.fromkeys(ref.name for ref in refs)
    if len(names) > 1:
        what = f"{', '.join(names)} are different models"
        remedy = f"Give variants of one: {FORM}."
        raise InputProblems([Problem("models", what, remedy)])


def read(study: Study, job: Job[ModelRef]) -> Part:
    """One variant on the held-out documents of each lens."""
    spec, ref = study.spec, job.item
    study.watch(Progress(f"loading {ref}"))
    model = study.load(ref, dtype=spec.dtype, device=spec.device)
    rows: list[dict[str, Any]] = []
    for lens in spec.lenses:
        study.watch(Progress(f"reading {ref} by its own {lens} lens and by the first variant's"))
        how = fit_spec(spec.fit, lens, ref.name, spec.dtype, spec.device)
        windows = parts_of(study.corpora[lens], how, model)[0]["test"]
        rows += _rows(model, lens, study.readings(lens, ref, model), windows)
    return Part({"transfer": TRANSFER.of_rows(rows)})


def _rows(
    model: LensModel, lens: str, readings: Mapping[str, Lens], windows: Sequence[Window]
) -> Iterator[dict[str, Any]]:
    """At the layers below the last, where each reading is the model."""
    sites = [site for site in model.sites() if site.layer < model.n_layers]
    measured = measure(model, list(readings.values()), sites, windows)
    for (i, reading), (j, site) in product(enumerate(readings), enumerate(sites)):
        for k, window in enumerate(windows):
            n_tokens = int(measured.n_tokens[k])
            yield {
                "model": model.name,
                "lens": lens,
                "reading": reading,
                "layer": site.layer,
                "depth": site.depth(model.n_layers),
                "document": window.document.sha256,
                "kl_bits": float(measured.kl_bits[i, j, k] / n_tokens),
                "top1_agreement": float(measured.top1_agreement[i, j, k] / n_tokens),
                "n_tokens": n_tokens,
            }
