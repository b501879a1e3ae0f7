"""Fitting a lens: its corpus, its model and the record that holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lensbench.checkpoints.ref import ModelRef
from lensbench.corpora.corpus import Corpus, load_corpus
from lensbench.corpora.written import Writer, written_corpus, written_seed
from lensbench.fitting.causal.record import fidelity_table
from lensbench.fitting.linear_lens import control_quality
from lensbench.fitting.method import Fitter, finished
from lensbench.fitting.methods import METHODS
from lensbench.fitting.spec import FitSpec
from lensbench.fitting.windows import parts_of, wanted_tokens
from lensbench.lens.fitted.place import fitted_folder
from lensbench.lens.gate import check_identities, require
from lensbench.models.adapted import facts_of, require_loadable_with_control
from lensbench.models.load import load_model
from lensbench.models.model import LensModel
from lensbench.progress import Progress, Watch, ignore
from lensbench.prompts.sets import load_prompts, shipped
from lensbench.quantized.peaks import Batch, Use
from lensbench.records.engine import Outcome, Work, make
from lensbench.records.parts import Parts
from lensbench.records.recording import Finished, Recording, Request
from lensbench.records.store import RecordStore


def fit_lens(
    spec: FitSpec,
    out: Path | None = None,
    watch: Watch = ignore,
    load: Callable[..., LensModel] = load_model,
) -> Outcome:
    """Fit a lens into `out`, or to where its name finds it; again to go on after an interruption.

    Facts of the shipped prompt sets that stand in the corpus are left out of it.

    Args:
        load: gives the model; a `Loader` gives the one that it loaded for another fit.

    Raises:
        InputProblems: unknown model or corpus, or a corpus that is too small.
        GateError: the lens does not reproduce this model at its last layer.
        RecordsError: another lens is there, or the disk cannot hold this one.
    """
    ref = ModelRef.of(spec.model)
    loaded = cache(lambda: load(ref, dtype=spec.dtype, device=spec.device))
    store = RecordStore(out or fitted_folder(spec.method, ref.name), str(ref), "lens_fit")
    if store.manifest() is None:  # before a corpus is written, which hashes the weights
        require_loadable_with_control(ref, spec.dtype, spec.device, used(spec), "--no-untrained")
    corpus = corpus_of(spec, loaded, watch)
    watch(Progress(f"hashing the weights of {ref}"))
    also = None if spec.also is None else corpus_of(spec.changed(corpus=spec.also), loaded, watch)
    other = {} if also is None else {"also": also.name, "also_sha256": also.sha256}
    request = Request(
        store,
        spec.settings() | {"corpus": corpus.name, "corpus_sha256": corpus.sha256} | other,
        facts_of(ref, spec.dtype, spec.device),
        tables=asked_for(spec),
        again=ref.facts,
    )

    def prepare(record: Recording) -> Work[Fitter, Any]:
        watch(Progress(f"loading {ref}"))
        model = loaded()
        windows, unread = parts_of(corpus, spec, model, also)
        fitter, method = Fitter(model, spec, windows), METHODS[spec.method]
        jobs = method.jobs(fitter)
        watch(Progress(f"testing the gate of {ref}"))
        shown = [window.token_ids for window in windows["test"][:2]]
        identities = check_identities(model, shown)
        require(identities)
        record.begin({**model.facts(), **request.model})

        def finish(parts: Parts) -> Finished:
            made = finished(method, fitter, parts, watch, control_quality, fidelity_table)
            return replace(
                made,
                problems=[*corpus.problems, *unread, *made.problems],
                gate=[identity.as_dict() for identity in identities],
                facts={**_facts("corpus", corpus), **_facts("also", also), **made.facts},
            )

        return Work(
            fitter,
            method.gather,
            [jobs],
            finish,
            unit=method.unit,
            size=method.size,
        )

    problems = make(request, prepare, watch)
    return Outcome([store.folder], problems=problems)


def corpus_of(spec: FitSpec, loaded: Callable[[], LensModel], watch: Watch = ignore) -> Corpus:
    """The corpus of a fit, without the facts of the shipped prompt sets.

    `loaded` gives the model, should it have to write the corpus itself.
    """
    watch(Progress("reading the corpus"))
    facts = [prompt for name in shipped() for prompt in load_prompts(name).prompts]
    seed = written_seed(spec.corpus)
    if seed is None:
        return load_corpus(spec.corpus, facts, watch=watch)
    ref = ModelRef.of(spec.model)
    decides = facts_of(ref, spec.dtype, spec.device) | {"dtype": spec.dtype, "device": spec.device}
    writer = Writer(str(ref), decides, loaded, seed, spec.window)
    wanted = wanted_tokens(spec)
    # A part that is full is so by less than a window.
    n_tokens = sum(wanted.values()) + len(wanted) * spec.window
    return written_corpus(writer, n_tokens, facts, watch)


def asked_for(spec: FitSpec) -> tuple[str, ...]:
    """Tables that not every fit has."""
    also = ("fit_also",) if spec.also else ()
    return (*also, *(("fit_fidelity",) if spec.directions else ()))


def used(spec: FitSpec) -> Use:
    """What a fit loads its model for."""
    n_texts = max(spec.batch_tokens // spec.window, 1)
    return Use("fit", Batch(n_texts, spec.window, control=not spec.no_untrained))


def _facts(name: str, corpus: Corpus | None) -> dict[str, object]:
    if corpus is None:
        return {}
    return {
        name: {
            "name": corpus.name,
            "sha256": corpus.sha256,
            "n_documents": len(corpus.documents),
            "n_with_facts": corpus.n_with_facts,
            "n_facts": corpus.n_facts,
            **corpus.origin,
        }
    }
